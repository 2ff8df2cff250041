"""How an error is told: in one line on stderr, or by a spawned rank to its launcher."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from typer.exceptions import TyperException

from video_infinity.errors import (
    ExchangeError,
    RankFailedError,
    UserError,
    VideoInfinityError,
)
from video_infinity.interrupts import EXIT_INTERRUPTED, RunStopped
from video_infinity.notes import read_note, write_note

EXIT_FAILED, EXIT_MISTAKE = 1, 2

FAILURES_DIR = "VIDEO_INFINITY_FAILURES_DIR"
"""Set by our own launcher for the ranks that it spawns: where each leaves its error."""


def is_spawned() -> bool:
    """Whether our own launcher, which tells of errors itself, started this rank."""
    return FAILURES_DIR in os.environ


def report_error(error: Exception) -> int:
    """Say what went wrong, in one line where it is the user's to mend. Returns the exit code."""
    if is_spawned():
        _leave_failure(error)
    else:
        trace = _trace(error)
        if trace:
            print(trace, file=sys.stderr, end="")
        say(f"error: {describe(error)}")
    return EXIT_MISTAKE if isinstance(error, UserError | TyperException) else EXIT_FAILED


def report_interrupt(how: KeyboardInterrupt | None = None) -> int:
    """Say that the run was interrupted, once for all ranks. Returns the exit code.

    A spawned rank that has ended in good order is none that failed.
    """
    stopped = isinstance(how, RunStopped)
    if is_spawned():
        return 0 if stopped else EXIT_INTERRUPTED
    say("cancelled" if isinstance(how, RunStopped) and how.by == "cancel" else "interrupted")
    return EXIT_INTERRUPTED


def say(text: str) -> None:
    """One line on stderr, with this process's rank if torchrun gave it one."""
    rank = "" if is_spawned() or "RANK" not in os.environ else f"rank {os.environ['RANK']}: "
    print(f"video-infinity: {rank}{text}", file=sys.stderr, flush=True)


def describe(error: BaseException) -> str:
    """An error in one line; with its kind, unless it is one of ours."""
    if isinstance(error, TyperException):
        text = f"{error.format_message().rstrip('.')}; see video-infinity --help"
    else:
        text = str(error)
    text = " ".join(text.split())
    if isinstance(error, VideoInfinityError | TyperException):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _trace(error: BaseException) -> str:
    if isinstance(error, RankFailedError):
        return error.traceback
    if isinstance(error, VideoInfinityError | TyperException):
        return ""
    return "".join(traceback.format_exception(error))


def _leave_failure(error: BaseException) -> None:
    failure = {
        "time": time.time(),
        "user": isinstance(error, UserError),
        "secondary": isinstance(error, ExchangeError),
        "message": describe(error),
        "traceback": _trace(error),
    }
    leave(Path(os.environ[FAILURES_DIR]), int(os.environ.get("RANK", "0")), failure)


def leave(scratch: Path, rank: int, failure: dict[str, Any]) -> None:
    """Note why a rank failed, for `first_failure`."""
    with suppress(OSError):  # no launcher any more, or a full disk: the exit code has to do
        write_note(scratch / f"rank-{rank}.json", failure)


def note_told() -> None:
    """Note when a spawned rank was told to end: the one that fails first was told by nobody."""
    path = Path(os.environ[FAILURES_DIR]) / f"told-{os.environ.get('RANK', '0')}.json"
    with suppress(OSError):
        write_note(path, {"time": time.time()})


def first_failure(scratch: Path, exit_codes: Mapping[int, int]) -> UserError | RankFailedError:
    """The error that began it: a rank's own before one that merely missed another rank.

    scratch     the directory that FAILURES_DIR named
    exit_codes  by rank, of those that failed; negative for the signal that killed one
    """
    failures = {
        int(path.stem.removeprefix("rank-")): read_note(path)
        for path in scratch.glob("rank-*.json")
    }
    told = {
        int(path.stem.removeprefix("told-")): read_note(path)["time"]
        for path in scratch.glob("told-*.json")
    }
    first = min((failure["time"] for failure in failures.values()), default=math.inf)
    silent = [r for r in exit_codes if r not in failures and told.get(r, -math.inf) < first]
    if silent and all(failure["secondary"] for failure in failures.values()):
        return RankFailedError(silent[0], _how_it_ended(exit_codes[silent[0]]))
    assert failures, "a rank failed, and left neither an exit code nor a word"
    rank = min(failures, key=lambda rank: (failures[rank]["secondary"], failures[rank]["time"]))
    failure = failures[rank]
    if failure["user"]:
        return UserError(failure["message"])
    return RankFailedError(rank, failure["message"], failure["traceback"])


def _how_it_ended(code: int) -> str:
    if code == EXIT_INTERRUPTED:
        return "a signal told it to end"
    if code == -signal.SIGKILL:
        return "killed by SIGKILL; if nobody did that, the machine ran out of memory"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
