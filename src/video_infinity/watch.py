"""A rank that is stopped (SIGSTOP) answers nobody and never fails: its launcher ends it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from video_infinity.failures import leave

STOPPED_S = 5.0
"""How long a rank may be stopped before it counts as failed."""
_POLL_S = 0.5


@contextmanager
def ending_stopped_ranks(scratch: Path, pids: Callable[[], Mapping[int, int]]) -> Iterator[None]:
    """Kill a rank of this machine that is stopped for STOPPED_S, and note why in `scratch`.

    pids  process ids by rank, of ranks that are children of this process
    Does nothing where there is no /proc; there the deadline of the others has to do.
    """
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(done, scratch, pids), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(done: threading.Event, scratch: Path, pids: Callable[[], Mapping[int, int]]) -> None:
    since: dict[int, float] = {}
    while not done.wait(_POLL_S):
        now = time.monotonic()
        stopped = {rank: pid for rank, pid in pids().items() if _is_stopped_child(pid)}
        since = {pid: since.get(pid, now) for pid in stopped.values()}
        for rank, pid in stopped.items():
            if now - since[pid] >= STOPPED_S:
                message = f"stopped by a signal (SIGSTOP) for {STOPPED_S:g} s, and ended therefore"
                leave(scratch, rank, _failure(message))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _failure(message: str) -> dict[str, object]:
    return {
        "time": time.time(),
        "user": False,
        "secondary": False,
        "message": message,
        "traceback": "",
    }


def _is_stopped_child(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] == "T" and int(fields[1]) == os.getpid()
