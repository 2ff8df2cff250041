"""Every other way in which a rank or a run ends: exceptions, memory, silence, signals, cancel."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end import program
from tests.faults.injected import HANG, NO_MEMORY, RAISE, STOP, TELL_LAUNCHER
from tests.faults.runs import (
    ENDS_WITHIN_S,
    STEPS,
    assert_resumes,
    environment,
    faults_of,
    generate,
    last_line,
    resume,
    steps_saved,
    words,
)


def test_an_exception_in_a_temporal_layer_ends_all(model: Path, whole: Path, here: Path) -> None:
    failed = generate(model, here, armed=(f"layer:9:1:{RAISE}",))
    assert failed.returncode == 1
    assert last_line(failed).endswith("rank 1 failed: ArithmeticError: one and one is three")
    assert "Traceback (most recent call last)" in failed.stderr
    assert failed.stderr.count("ArithmeticError: one and one is three") == 2, "trace and last line"
    assert_resumes(here, whole)


TOLD = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
"""As torch elastic does to a rank whose peer has died: it must not wait in a collective."""


@pytest.mark.slow
def test_one_end_after_another(model: Path, whole: Path, here: Path) -> None:
    """Of one run, each in a way of its own, and gone on with after each."""
    deadline = ("--timeout", "5")
    for fault, says in {
        f"join:1:1:{HANG}": "failed: the 2 ranks did not meet within 5 s",
        f"layer:9:1:{NO_MEMORY}": "rank 1 failed: MemoryError",
        f"layer:10:1:{HANG}": "rank 0 failed: rank 0: the exchange with another rank",
        "layer:11:1:sys.exit(7)": "rank 1 failed: ended with exit code 7",
        "layer:12:1:os._exit(0)": "rank 0 failed: rank 0: the exchange with another rank",
        f"layer:13:1:{TOLD}": "rank 1 failed: a signal told it to end",
    }.items():
        again = (here / "v.run").exists()
        failed = (
            resume(here, *deadline, armed=(fault,))
            if again
            else generate(model, here, *deadline, armed=(fault,))
        )
        assert failed.returncode == 1, fault
        assert says in last_line(failed), fault
    assert_resumes(here, whole)


@pytest.mark.slow
def test_a_stopped_rank_is_a_failure(model: Path, whole: Path, here: Path) -> None:
    failed = generate(model, here, armed=(f"step:4:1:{STOP}",))
    assert failed.returncode == 1
    assert "rank 1 failed: stopped by a signal (SIGSTOP)" in last_line(failed)
    assert_resumes(here, whole)


# People


def test_ctrl_c_saves_and_says_how_to_go_on(model: Path, whole: Path, here: Path) -> None:
    stopped = generate(model, here, armed=(f"step:3:0:{TELL_LAUNCHER}",))
    assert stopped.returncode == 130, stopped.stderr
    assert last_line(stopped) == "video-infinity: interrupted"
    assert "video-infinity resume " in stopped.stderr
    assert steps_saved(here / "v.run")[-1] in (3, 4, 5), "not only at every second step"
    assert {p.name for p in here.iterdir()} == {"v.run"}
    assert_resumes(here, whole)


@pytest.mark.slow
def test_a_second_signal_ends_at_once(model: Path, here: Path) -> None:
    """A step that lasts a minute is not waited for."""
    armed = environment(here, ("layer:9:0:time.sleep(60)",))
    running = program.Running(words(model, "--log-json"), here, armed)
    running.wait_for("phase")
    assert program.eventually(lambda: any(faults_of(here).glob("fired*")), 120)
    running.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert running.process.poll() is None
    begin = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    assert running.finish().returncode == 130
    assert time.monotonic() - begin < ENDS_WITHIN_S
    assert running.all_gone()


@pytest.mark.slow
def test_the_embedded_model_ends_in_good_order_within_an_orchestrators_grace(here: Path) -> None:
    """Thirty seconds from SIGTERM to SIGKILL are what Kubernetes and Docker's kin give."""
    prompt = "a red seven moving left on a navy background"
    told = ["generate", prompt, "--nproc-per-node", "2", "--output", "v.mp4", "--log-json"]
    running = program.Running(told, here)
    running.wait_for("step")
    begin = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    finished = running.finish()
    assert time.monotonic() - begin < 30
    assert finished.returncode == 130
    assert running.all_gone()
    assert steps_saved(here / "v.mp4.run") != []


@pytest.mark.slow
def test_cancel_and_status_from_another_process(model: Path, whole: Path, here: Path) -> None:
    armed = environment(here, ("step:2:0:time.sleep(3)",))
    running = program.Running([*words(model), "--log-json"], here, armed)
    running.wait_for("step")
    told = json.loads(program.run("status", "v.run", "--log-json", cwd=here).stdout)
    assert told["state"] == "running" and told["num_steps"] == STEPS
    assert [entry["pid"] for entry in told["ranks"].values()] == running.ranks()
    assert program.run("cancel", "v.run", cwd=here).returncode == 0
    finished = running.finish()
    assert finished.returncode == 130
    assert running.all_gone()
    assert finished.stderr.splitlines()[-1] == "video-infinity: cancelled"
    told = json.loads(program.run("status", "v.run", "--log-json", cwd=here).stdout)
    assert told["state"] == "cancelled" and told["step"] < STEPS
    assert program.run("cancel", "v.run", cwd=here).returncode == 2
    assert_resumes(here, whole)
