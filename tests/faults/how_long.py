"""How long a fault takes to be noticed: from the fault to the end of the last process.

    python -m tests.faults.how_long

Two ranks of the tiny model; prints the table of docs/reliability.md.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.end_to_end import program
from tests.faults.injected import (
    HANG,
    KILL,
    NO_MEMORY,
    RAISE,
    STOP,
    TELL_LAUNCHER,
    fired_at,
    injected,
)
from tests.faults.runs import words
from tests.tiny import save_tiny_model

FAULTS = {
    "rank 0 killed (SIGKILL)": f"step:4:0:{KILL}",
    "rank 1 killed (SIGKILL)": f"step:4:1:{KILL}",
    "exception in a temporal layer": f"layer:20:1:{RAISE}",
    "out of memory (RLIMIT_AS)": f"layer:20:1:{NO_MEMORY}",
    "rank 1 stopped (SIGSTOP)": f"step:4:1:{STOP}",
    "rank 1 hangs, `--timeout 5`": f"layer:20:1:{HANG}",
    "rank 1 never comes, `--timeout 5`": f"join:1:1:{HANG}",
    "launcher killed (SIGKILL)": "step:4:0:os.kill(os.getppid(), signal.SIGKILL)",
    "SIGTERM to the launcher": f"step:4:0:{TELL_LAUNCHER}",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        model = save_tiny_model(here / "model")
        print("| fault | exit code | seconds to the end of all |")
        print("| --- | --- | --- |")
        for number, (name, fault) in enumerate(FAULTS.items()):
            cwd, armed = here / f"run {number}", here / f"faults {number}"
            cwd.mkdir()
            armed.mkdir()
            running = program.Running(words(model, "--timeout", "5"), cwd, injected(armed, fault))
            code = running.finish().returncode
            assert running.all_gone()
            (moment,) = fired_at(armed)
            print(f"| {name} | {code} | {time.time() - moment:.1f} |", flush=True)


if __name__ == "__main__":
    main()
