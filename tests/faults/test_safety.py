"""Nobody gets in: not over a port, a file that is read back, a prompt, or a name."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end import program
from tests.faults.injected import KILL, evil_pickle
from tests.faults.runs import (
    assert_same,
    environment,
    generate,
    last_line,
    resume,
    steps_saved,
    words,
)
from video_infinity.sealed import read_sealed, write_sealed

LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}
"""127.0.0.1 and ::1 as /proc/net/tcp and tcp6 write them."""
LISTENING = "0A"
SPITEFUL = "$(touch owned) `touch owned`; touch owned {0} {self} %s %n %(x)s \\ ' \" &"


def listening(pids: list[int]) -> list[str]:
    """Addresses at which processes wait for somebody to connect."""
    own = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            own.add(os.readlink(descriptor))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in own:
                found.append(fields[1].partition(":")[0])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_port_is_on_loopback(model: Path, here: Path) -> None:
    told = words(model, "--num-inference-steps", "1000", "--log-json")
    running = program.Running(told, here)
    running.wait_for("step")
    addresses = listening([running.process.pid, *running.ranks()])
    running.process.send_signal(signal.SIGTERM)
    assert running.finish().returncode == 130
    assert addresses, "ranks wait for each other somewhere"
    assert set(addresses) <= LOOPBACK


@pytest.mark.slow
def test_prompts_and_names_are_data(model: Path, here: Path) -> None:
    """The line that says how to go on can be pasted into a shell, whatever is in it."""
    name = f"v {SPITEFUL.replace('/', '')}.mp4"
    more = ("--output", name, "--run-dir", f"run {SPITEFUL}", "--report", "%s {0} r.json")
    told = words(model, *more)
    told[1] = SPITEFUL
    armed = environment(here, (f"step:4:1:{KILL}",))
    failed = program.run(*told, cwd=here, environment=armed)
    assert failed.returncode == 1, failed.stderr
    (line,) = [line for line in failed.stderr.splitlines() if "to go on: " in line]
    command = line.partition("to go on: ")[2]
    here_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    resumed = subprocess.run(
        command, shell=True, cwd=here, env=os.environ | {"PATH": here_first}, capture_output=True
    )
    assert resumed.returncode == 0, resumed.stderr
    made = {path.name for path in here.iterdir()}
    assert made == {name, f"run {SPITEFUL}", "%s {0} r.json", "z.safetensors"}
    report = json.loads((here / "%s {0} r.json").read_text())
    assert [entry["prompt"] for entry in report["timeline"]] == [SPITEFUL]
    assert shlex.split(command)[2] == str(here / f"run {SPITEFUL}")


@pytest.mark.slow
def test_a_file_that_was_made_to_run_code_does_nothing(
    model: Path, whole: Path, here: Path, tmp_path: Path
) -> None:
    """Neither in a checkpoint whose checksums were forged, nor as latents, nor as a manifest."""
    touched = tmp_path / "code has run"
    evil = evil_pickle(touched)
    pickle.loads(evil)
    assert touched.exists(), "it does run code, if it is let"
    touched.unlink()

    assert generate(model, here, armed=(f"step:6:1:{KILL}",)).returncode == 1
    assert steps_saved(here / "v.run") == [2, 4]
    checkpoint = here / "v.run" / "checkpoints" / "step-00004"
    body = read_sealed(checkpoint / "marker.json")
    for span, file in zip(body["spans"], sorted(checkpoint.glob("*.safetensors")), strict=True):
        file.write_bytes(evil)
        span[2:] = [len(evil), hashlib.sha256(evil).hexdigest()]
    write_sealed(checkpoint / "marker.json", body)
    manifest = here / "v.run" / "manifest.json"
    text = manifest.read_bytes()
    manifest.write_bytes(evil)
    refused = resume(here)
    assert refused.returncode == 2 and "was changed or is broken" in last_line(refused)
    manifest.write_bytes(text)
    resumed = resume(here)
    assert resumed.returncode == 0, resumed.stderr
    assert "the checkpoint of step 4 is not used" in resumed.stderr
    assert_same(here, whole)

    latents = tmp_path / "evil.safetensors"
    latents.write_bytes(evil)
    refused = generate(model, here, "--initial-latents", str(latents), "--overwrite")
    assert refused.returncode == 2 and "cannot be read as safetensors" in last_line(refused)
    assert not touched.exists()
