"""What a run says while it works: one bar on a terminal, JSON lines, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from video_infinity.engine import Observer
from video_infinity.failures import say


class Bar:
    """One bar on stderr for steps, then for frames: frames per second and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("load", total=None, rate="")
        self._begin = time.perf_counter()

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: str, **data: Any) -> None:
        if event == "phase":
            self._progress.reset(self._task, description=data["name"], total=None, rate="")
            self._begin = time.perf_counter()
        elif event == "step":
            share = data["step"] / data["of"]
            self._update(data["step"], data["of"], data["frames"] * share)
        elif event == "frames":
            self._update(data["frames"], data["of"], data["frames"])

    def _update(self, completed: int, total: int, num_frames: float) -> None:
        rate = num_frames / max(1e-9, time.perf_counter() - self._begin)
        self._progress.update(
            self._task, completed=completed, total=total, rate=f"{rate:.1f} frames/s"
        )


def restore_terminal() -> None:
    """Show the cursor again, for a bar that cannot be ended."""
    if sys.__stderr__ is not None and sys.__stderr__.isatty():
        sys.__stderr__.write("\n\x1b[?25h")


def json_lines(event: str, **data: Any) -> None:
    """One JSON object a line on stderr."""
    line = {"time": round(time.time(), 3), "event": event, **data}
    print(json.dumps(line), file=sys.stderr, flush=True)


def warn(message: str, *, log_json: bool) -> None:
    """A line on stderr about something that is no error."""
    if log_json:
        json_lines("warning", message=message)
    else:
        say(f"warning: {message}")


def silent(event: str, **data: Any) -> None:
    """Say nothing."""


@contextmanager
def default_observer(
    observer: Observer | None = None,
    *,
    is_main: bool,
    quiet: bool = False,
    log_json: bool = False,
) -> Iterator[Observer]:
    """The observer that was given, else JSON lines, else a bar if stderr is a terminal."""
    if observer is not None:
        yield observer
    elif not is_main or (quiet and not log_json):
        yield silent
    elif log_json:
        yield json_lines
    elif sys.stderr.isatty():
        with Bar() as bar:
            yield bar
    else:
        yield silent
