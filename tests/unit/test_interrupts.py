"""A process ends when it is told, and leaves alone what it was started to ignore."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.program import eventually
from video_infinity.interrupts import GRACE_S, ending_when_told

PROCESS = """
import hashlib, signal, sys, threading, time
from pathlib import Path
from video_infinity.interrupts import ending_when_told, interrupt_on_signals

class Swallows:
    def __del__(self):
        time.sleep(60)

def destroy_for_ever():
    while True:
        Swallows()

def compute_for_ever():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

def told_through_another_thread():
    def tell():
        time.sleep(0.5)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    time.sleep(60)

here = Path(sys.argv[1])
interrupt_on_signals()
with ending_when_told((here / "cleaned").touch):
    try:
        (here / "ready").touch()
        WAIT
    finally:
        (here / "unwound").touch()
"""


def start(wait: str, directory: Path, *launcher: str) -> subprocess.Popen[str]:
    """A process that waits in a way of its own, and ignores nothing that its launcher does not.

    Tests that are run under nohup ignore SIGHUP, and so would all that they start.
    """
    code = PROCESS.replace("WAIT", wait)
    process = subprocess.Popen(
        [*launcher, sys.executable, "-c", code, str(directory)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert eventually((directory / "ready").exists)
    time.sleep(0.2)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_main_thread_unwinds(number: signal.Signals, tmp_path: Path) -> None:
    process = start("time.sleep(60)", tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in err
    assert {p.name for p in tmp_path.iterdir()} == {"ready", "unwound"}


@pytest.mark.parametrize("wait", ["compute_for_ever()", "destroy_for_ever()"])
def test_one_that_cannot_is_ended_after_a_while(wait: str, tmp_path: Path) -> None:
    process = start(wait, tmp_path)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == ""
    assert time.monotonic() - begin > 0.8 * GRACE_S
    assert {p.name for p in tmp_path.iterdir()} == {"ready", "cleaned"}


def test_an_orphan_ends(tmp_path: Path) -> None:
    code = PROCESS.replace('"cleaned").touch', '"cleaned").touch, (here / "ready").exists')
    code = code.replace("WAIT", "time.sleep(60)")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, capture_output=True)
    assert {p.name for p in tmp_path.iterdir()} == {"ready", "unwound"}


def test_a_signal_that_did_not_wake_the_main_thread_does(tmp_path: Path) -> None:
    _, err = start("told_through_another_thread()", tmp_path).communicate(timeout=20)
    assert "KeyboardInterrupt" in err
    assert {p.name for p in tmp_path.iterdir()} == {"ready", "unwound"}


def test_nohup_is_respected(tmp_path: Path) -> None:
    process = start("time.sleep(2)", tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_afterwards_all_is_as_before() -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with ending_when_told(lambda: None):
        pass
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert after == before


TELLS_OF_AN_ERROR = """
import os, signal, sys
from video_infinity import cli

def told_to_end_meanwhile(error):
    os.kill(os.getpid(), signal.SIGTERM)

cli.report_error = told_to_end_meanwhile
sys.argv = ["video-infinity", "plan", "a", "--num-frames", "none"]
cli.main()
"""


def test_a_process_that_is_told_to_end_while_it_tells_of_an_error_shows_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TELLS_OF_AN_ERROR], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "video-infinity: interrupted\n")
