"""The program as a person runs it: a process of its own, whose every offspring can be found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "video_infinity")
TIMEOUT_S = 240
_MARK = "VIDEO_INFINITY_TEST_MARK"


@dataclass
class Running:
    """A run under way.

    words    the command line after the program's own
    mark     is in the environment of every process that the run starts
    streams  what Popen is told besides, such as other ends for the streams
    """

    words: Sequence[str]
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)
    program: Sequence[str] = PROGRAM
    streams: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [*self.program, *map(str, self.words)],
            cwd=self.cwd,
            env=os.environ | {"OMP_NUM_THREADS": "1", _MARK: self.mark} | self.environment,
            text=True,
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                **self.streams,
            },
        )

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read stderr up to the first `--log-json` line of that event, and return it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{") and json.loads(line)["event"] == event:
                return json.loads(line)  # type: ignore[no-any-return]
        raise AssertionError(f"the run ended before {event!r}")

    def finish(self, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        finally:
            self.process.kill()
        return subprocess.CompletedProcess(self.words, self.process.returncode, out, err)

    def ranks(self) -> list[int]:
        """Process ids of the ranks that a launcher has spawned, rank 0 first."""
        found = {}
        for pid in _marked(self.mark):
            rank = environment_of(pid).get("RANK")
            if rank is not None:
                found[int(rank)] = pid
        return [pid for _, pid in sorted(found.items())]

    def all_gone(self) -> bool:
        """Whether no process is left; those that are ending get a few seconds."""
        return eventually(lambda: not _marked(self.mark))


def run(
    *words: object,
    cwd: Path,
    environment: dict[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end; no process may be left."""
    running = Running([str(word) for word in words], cwd, environment or {}, program)
    finished = running.finish()
    assert running.all_gone(), finished
    return finished


def eventually(holds: Callable[[], bool], timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _marked(mark: str) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if environment_of(pid).get(_MARK) == mark]


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty for one that is gone, or a zombie."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
