"""Signals that end a run: exit code 130, no half file, and nobody left behind."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
GRACE_S = 3.0
"""How long the main thread may take to unwind before its process is ended."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S = 1.0
_WAKE_S = 0.5


class RunStopped(KeyboardInterrupt):
    """The run has ended early and in good order, because somebody asked.

    by  "signal" or "cancel"
    """

    def __init__(self, run_dir: Path, by: str) -> None:
        super().__init__()
        self.run_dir, self.by = run_dir, by


def heeded_signals() -> list[signal.Signals]:
    """The ending signals that this process was not started to ignore, as nohup starts it."""
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def interrupt_on_signals() -> None:
    """Let every ending signal do what Ctrl-C does: one KeyboardInterrupt in the main thread.

    A destructor that happens to run then swallows it: that is not told, and `ending_when_told`
    sees to the end.
    """

    def interrupt(*_: object) -> NoReturn:
        for number in heeded_signals():
            signal.signal(number, signal.SIG_IGN)
        sys.unraisablehook = lambda _: None
        raise KeyboardInterrupt

    for number in heeded_signals():
        signal.signal(number, interrupt)


@contextmanager
def asking_first(ask: Callable[[], None]) -> Iterator[None]:
    """Let the first ending signal ask for an end in good order, and the second end at once.

    ask  raises OSError if it cannot; then the first ends at once as well
    """
    before = {number: signal.getsignal(number) for number in heeded_signals()}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number: int, frame: FrameType | None) -> None:
        put_back()
        try:
            ask()
        except OSError:
            handler = before[signal.Signals(number)]
            assert callable(handler)
            handler(number, frame)

    for number in before:
        signal.signal(number, first)
    try:
        yield
    finally:
        put_back()


@contextmanager
def ending_when_told(
    clean_up: Callable[[], None],
    is_orphan: Callable[[], bool] = lambda: False,
    *,
    asks_first: bool = False,
    told: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """See that this process ends when it is told, whatever its main thread is doing.

    Inside a collective or a long operation it sees no KeyboardInterrupt; after GRACE_S another
    thread cleans up in its stead and ends the process. The wake-up descriptor is written to by
    whichever thread the system hands the signal to. A signal that another thread was handed, or
    that came just before a sleep, does not end that sleep: so it is sent to the main thread again.

    clean_up    called from that other thread
    is_orphan   asked every second; an orphan tells itself to end
    asks_first  the first signal is one that `asking_first` takes
    told        called at once, from that other thread
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    unwound = threading.Event()
    watch = (reader, unwound, clean_up, is_orphan, 2 if asks_first else 1, told)
    thread = threading.Thread(target=_watch, args=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        unwound.set()
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join(_POLL_S)  # so that `told` is not cut off


def _watch(
    reader: int,
    unwound: threading.Event,
    clean_up: Callable[[], None],
    is_orphan: Callable[[], bool],
    signals_left: int,
    told: Callable[[], None],
) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    ending: list[int] = []
    while signals_left > 0 and not unwound.is_set():
        if is_orphan():
            os.kill(os.getpid(), signal.SIGTERM)
        if select.select([reader], [], [], _POLL_S)[0]:
            ending = [number for number in os.read(reader, 64) if number in _SIGNALS]
            signals_left -= len(ending)
    os.close(reader)
    if signals_left > 0:
        return
    told()
    give_up = time.monotonic() + GRACE_S
    while time.monotonic() < give_up:
        if unwound.wait(_WAKE_S):
            return
        signal.pthread_kill(main_thread, ending[-1])  # ignored once the interrupt has begun
    try:
        clean_up()
    finally:
        os._exit(EXIT_INTERRUPTED)
