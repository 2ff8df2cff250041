"""A finished video: frames on disk, handed out one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from video_infinity.collect import Spool
from video_infinity.errors import RunError
from video_infinity.output import check_destination, open_sink

SAVE_PIECE_FRAMES = 16


class Video:
    """Frames of one video, on rank 0; on other ranks it is empty and `save` does nothing.

    Iterating gives uint8 [H, W, 3] arrays and holds one piece at a time, as often as wished.
    report  the run's report, as `--report` writes it (rank 0)
    """

    def __init__(self, fps: float, height: int, width: int, *, is_main: bool) -> None:
        self.fps, self.height, self.width = fps, height, width
        self.report: dict[str, Any] = {}
        self._spool, self._is_main, self._closed = Spool(), is_main, False

    def append(self, piece_PHWC: torch.Tensor) -> None:
        """Take the next frames; the engine's sink."""
        self._spool.append(piece_PHWC)

    def __len__(self) -> int:
        return sum(shape[0] for shape in self._spool.shapes)

    def pieces(self) -> Iterator[np.ndarray[Any, Any]]:
        """Frames as uint8 [P, H, W, 3] pieces, in order."""
        if self._closed:
            raise RunError("this video was closed; its frames are gone")
        for index in range(len(self._spool)):
            yield self._spool.read(index).numpy()

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        for piece in self.pieces():
            yield from piece

    def save(self, path: str | Path, *, fps: float | None = None, overwrite: bool = False) -> None:
        """Write .mp4, .webm, .gif, or a directory of PNGs where there is no suffix.

        Raises OutputError if it cannot be written there.
        """
        if not self._is_main:
            return
        path = Path(path)
        check_destination(path, overwrite=overwrite)
        with open_sink(
            path, fps=fps or self.fps, width=self.width, height=self.height, overwrite=overwrite
        ) as sink:
            for piece in self.pieces():
                sink.write(piece)

    def close(self) -> None:
        """Give the disk space back."""
        self._closed = True
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
