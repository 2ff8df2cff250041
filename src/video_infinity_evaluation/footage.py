"""Frames of any video, one at a time, so that memory does not grow with its length.

A file goes through PyAV with the colour matrix and range that the file names, as OpenCV's reader
has it too. A directory holds PNGs, in the order of their names.

F frames, H height, W width, C = 3 (red, green, blue).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from video_infinity_evaluation.errors import EvaluationError

Frame = npt.NDArray[np.uint8]

DEFAULT_FPS = 8.0
"""Of frames that came without a rate. VBench samples at 8 a second: each of them then counts."""
TEXT = "tty"
"""FFmpeg's reader of .txt, .nfo and the like, which draws text as pictures of a terminal."""


class Footage:
    """A video to be read once, from its start.

    name  for messages
    fps   frames a second
    Iterating gives uint8 [H, W, 3] frames, all of one size.
    Raises EvaluationError, here or while frames are read, if there is no whole video.
    """

    def __init__(self, name: str, fps: float, frames: Iterable[Frame]) -> None:
        if not math.isfinite(fps) or fps <= 0:
            raise EvaluationError(f"{name}: {fps} frames a second; name a rate above 0")
        self.name, self.fps, self._frames = name, fps, frames

    def __iter__(self) -> Iterator[Frame]:
        shape: tuple[int, ...] | None = None
        for index, frame in enumerate(self._frames):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise EvaluationError(
                    f"{self.name}: frame {index} is {frame.dtype} {list(frame.shape)}; "
                    "frames are uint8 [height, width, 3]"
                )
            shape = shape or frame.shape
            if frame.shape != shape:
                raise EvaluationError(
                    f"{self.name}: frame {index} is {_size(frame.shape)} and those before are "
                    f"{_size(shape)}; a video has one size"
                )
            yield frame


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def open_footage(video: Any, fps: float | None = None) -> Footage:
    """The footage of a path, of an array [F, H, W, 3], or of any iterable of frames.

    fps  overrides what the file says; an array or a directory has DEFAULT_FPS without it
    """
    if isinstance(video, str | Path):
        path = Path(video)
        try:
            path.stat()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise EvaluationError(
                f"{str(path)!r} cannot be read ({_cause(error)}); name a video file, or a "
                "directory of PNGs"
            ) from error
        if path.is_dir():
            return Footage(str(path), DEFAULT_FPS if fps is None else fps, _pictures(path))
        return Footage(str(path), _rate(path) if fps is None else fps, _decoded(path))
    rate = getattr(video, "fps", DEFAULT_FPS) if fps is None else fps
    return Footage("the video", float(rate), video)


def most_frames(video: Any) -> int | None:
    """How many frames there are at most, without decoding any; None where only a pass can tell.

    A file's are its packets: not all headers hold the number, and one of a fragmented mp4 holds
    that of its first fragment.
    """
    if not isinstance(video, str | Path):
        return len(video) if isinstance(video, Sized) else None
    path = Path(video)
    if path.is_dir():
        return len(list(path.glob("*.png")))
    with _open(path) as container:
        try:
            return sum(packet.size > 0 for packet in container.demux(video=0))
        except av.FFmpegError:
            return None


def _pictures(path: Path) -> Iterator[Frame]:
    files = sorted(path.glob("*.png"))
    if not files:
        raise EvaluationError(f"{path} is a directory without PNGs; name a video file")
    for file in files:
        try:
            with Image.open(file) as picture:
                yield np.asarray(picture.convert("RGB"))
        except (
            *(OSError, ValueError, SyntaxError),
            *(UnidentifiedImageError, Image.DecompressionBombError),
        ) as error:
            raise EvaluationError(f"{file} is no PNG that can be read: {error}") from error


def _open(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path.absolute()))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise EvaluationError(
            f"{path} is no video that can be read ({_cause(error)}); name one such as clip.mp4"
        ) from error
    if container.format.name == TEXT:
        container.close()
        raise EvaluationError(f"{path} is text and no video; name one such as clip.mp4")
    if not container.streams.video:
        container.close()
        raise EvaluationError(f"{path} holds no video stream; name a file with pictures")
    return container


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _rate(path: Path) -> float:
    with _open(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        return float(rate) if rate else DEFAULT_FPS


def _decoded(path: Path) -> Iterator[Frame]:
    count = 0
    with _open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        try:
            for frame in container.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                count += 1
        except (av.FFmpegError, ValueError) as error:
            raise EvaluationError(
                f"{path} breaks off after frame {count} ({_cause(error)}); make it anew"
            ) from error
