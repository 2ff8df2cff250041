"""Signals that end a run: exit code 130, no half file, and nobody left behind."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

EXIT_INTERRUPTED = 130
GRACE_S = 3.0
"""How long the main thread may take to unwind before its process is ended."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 1.0


def heeded_signals() -> list[signal.Signals]:
    """The ending signals that this process was not started to ignore, as nohup starts it."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def interrupt_on_signals() -> None:
    """Let every ending signal do what Ctrl-C does: one KeyboardInterrupt in the main thread."""

    def interrupt(*_: object) -> NoReturn:
        for number in heeded_signals():
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in heeded_signals():
        signal.signal(number, interrupt)


def end_when_told(clean_up: Callable[[], None], is_orphan: Callable[[], bool]) -> None:
    """See that this rank ends when it is told, even from inside a collective.

    A main thread that waits there sees no KeyboardInterrupt; after GRACE_S another thread cleans
    up in its stead and ends the process. The wake-up descriptor is written to by whichever
    thread the system hands the signal to.

    clean_up   called from that other thread
    is_orphan  asked every second; an orphan tells itself to end
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    threading.Thread(target=_watch, args=(reader, clean_up, is_orphan), daemon=True).start()


def _watch(reader: int, clean_up: Callable[[], None], is_orphan: Callable[[], bool]) -> None:
    told = False
    while not told:
        if is_orphan():
            os.kill(os.getpid(), signal.SIGTERM)
        if select.select([reader], [], [], _POLL_S)[0]:
            told = any(number in _SIGNALS for number in os.read(reader, 64))
    time.sleep(GRACE_S)
    try:
        clean_up()
    finally:
        os._exit(EXIT_INTERRUPTED)
