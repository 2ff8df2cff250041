"""Ordered frames to one video file or one directory of PNGs.

    with open_sink(Path("clip.mp4"), fps=8, width=64, height=64, overwrite=False) as sink:
        for frames_FHWC in pieces:
            sink.write(frames_FHWC)

Bounded memory: frames go through the encoder one by one; what waits there (about 50 frames in
x264) does not grow with the video. Whole or absent: all bytes go to `partial_path(path)`, whose
renaming is the last act. Same frames in, same bytes out, however they are shared out over calls
of `write`: one thread, no time stamps (same build of the codec, same kind of CPU).

F frames, H height, W width, C = 3 (red, green, blue).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from video_infinity.destination import (
    SUFFIXES,
    atomic_write_bytes,
    check_destination,
    check_new_file,
    claim,
    flush_to_disk,
    partial_path,
    remove_partial,
    replace,
    settle_replaced,
    write_failed,
)
from video_infinity.errors import OutputError, RunError

__all__ = [
    "SUFFIXES",
    "FrameSink",
    "atomic_write_bytes",
    "check_destination",
    "check_new_file",
    "open_sink",
    "partial_path",
    "remove_partial",
]

# mbtree=0: with MB-tree, x264 (core 165) on AVX-512 wrote 12 different files in 12 runs over the
# same 96x64 frames; on AVX2 or without MB-tree it does not.
_CODEC_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"crf": "18", "preset": "medium", "x264-params": "mbtree=0"},
    "mpeg4": {"qmin": "2", "qmax": "2"},
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4"},
    "gif": {},
}
_FORMAT_OPTIONS = {".mp4": {"movflags": "+faststart"}}
_TO_BT709 = (
    "out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int+bitexact"
)
_BT709 = 1  # in ITU-T H.273, for primaries, transfer and matrix alike
_TV_RANGE = 1  # AVCOL_RANGE_MPEG
_MIN_FPS, _MAX_FPS = 0.01, 1000.0
_MAX_FPS_GIF = 50.0  # browsers show a delay below 2/100 s as 10/100 s


def open_sink(
    path: Path,
    *,
    fps: float,
    width: int,
    height: int,
    overwrite: bool,
    video_codec: str | None = None,
) -> FrameSink:
    """A sink for frames of height x width pixels; the disk is untouched until it is entered.

    path         its suffix chooses the container (SUFFIXES)
    fps          for playback; .gif counts in 1/100 s: each frame starts at the nearest, without
                 drift, and the last is shown as long as the one before
    video_codec  one of SUFFIXES[suffix]; None is the first
    Raises OutputError if path, fps, size or codec cannot be.
    """
    check_destination(path, overwrite=overwrite)
    suffix = path.suffix.lower()
    codec = video_codec or SUFFIXES[suffix][0]
    if codec not in SUFFIXES[suffix]:
        known = ", ".join(SUFFIXES[suffix])
        raise OutputError(f"video_codec={codec} does not go into {path}; use {known}")
    _check_rate_and_size(path, fps, width, height)
    if not suffix:
        return _PngSink(path, width, height, overwrite)
    try:
        return _VideoSink(path, width, height, overwrite, fps, codec)
    except av.codec.codec.UnknownCodecError as error:
        raise OutputError(f"this PyAV has no {codec} for {path}; use another codec") from error


def _check_rate_and_size(path: Path, fps: float, width: int, height: int) -> None:
    suffix = path.suffix.lower()
    max_fps = _MAX_FPS_GIF if suffix == ".gif" else _MAX_FPS
    if not _MIN_FPS <= fps <= max_fps:
        raise OutputError(f"fps={fps} does not fit {path}; use {_MIN_FPS:g} to {max_fps:g}")
    if width < 1 or height < 1:
        raise OutputError(f"frames of {width}x{height} pixels are empty; use at least 1x1")
    if suffix in (".mp4", ".webm") and (width % 2 or height % 2):
        raise OutputError(
            f"{path}: {suffix} (yuv420p) needs even sizes and {width}x{height} is odd; "
            f"change the size, or write a .gif or a directory of PNGs"
        )


class FrameSink(ABC):
    """Takes the frames of one video in timeline order, between `with` and its end.

    num_frames  frames written so far
    A clean end renames the whole video onto its path; an exception leaves nothing of it.
    """

    def __init__(self, path: Path, width: int, height: int, overwrite: bool) -> None:
        self.num_frames = 0
        self._path = path
        self._partial = partial_path(path)
        self._shape_HWC = (height, width, 3)
        self._overwrite = overwrite
        self._lock: int | None = None
        self._finished = False

    def write(self, frames_FHWC: npt.NDArray[np.uint8]) -> None:
        """Append F frames, uint8 [F, height, width, 3]; F may be 0.

        Raises OutputError for another shape or dtype, RunError if the disk does not take them.
        """
        if frames_FHWC.dtype != np.uint8 or frames_FHWC.shape[1:] != self._shape_HWC:
            raise OutputError(
                f"frames of {frames_FHWC.dtype} {list(frames_FHWC.shape)} do not fit {self._path}; "
                f"give uint8 [F, {', '.join(map(str, self._shape_HWC))}]"
            )
        with self._whole_or_absent():
            for frame_HWC in frames_FHWC:
                self._add(np.ascontiguousarray(frame_HWC))
                self.num_frames += 1

    def __enter__(self) -> Self:
        self._lock = claim(self._path)
        with self._whole_or_absent():
            settle_replaced(self._path)
            self._begin()
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is not None:
            self._discard()
            return
        self.finish()
        with self._whole_or_absent():
            check_destination(self._path, overwrite=self._overwrite)
            replace(self._partial, self._path)
        self._unlock()

    def finish(self) -> int:
        """Bring all bytes to the disk, so that the renaming alone is left.

        Returns the inode that the video will have.
        """
        with self._whole_or_absent():
            if self.num_frames == 0:
                raise RunError(f"no frame came for {self._path}, so it was not written; run again")
            if not self._finished:
                self._finish()
            self._finished = True
            return self._partial.stat().st_ino

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _add(self, frame_HWC: npt.NDArray[np.uint8]) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def _abandon(self) -> None: ...

    @contextmanager
    def _whole_or_absent(self) -> Iterator[None]:
        if self._lock is None:
            raise RunError(f"{self._path} is not being written; open a new sink in a `with`")
        try:
            yield
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError | av.FFmpegError):
                raise write_failed(self._path, error) from error
            raise

    def _discard(self) -> None:
        if self._lock is None:
            return
        self._unlock()
        with suppress(OSError):
            remove_partial(self._path)
        self._abandon()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _VideoSink(FrameSink):
    """One H.264, VP9 or GIF stream; frames pass a filter graph that makes its pixel format."""

    def __init__(
        self, path: Path, width: int, height: int, overwrite: bool, fps: float, codec: str
    ) -> None:
        super().__init__(path, width, height, overwrite)
        suffix = path.suffix.lower()
        self._fps = Fraction(fps).limit_denominator(1001)
        self._tick_s = Fraction(1, 100) if suffix == ".gif" else 1 / self._fps
        self._container = av.open(
            str(self._partial.absolute()),  # "a:b.mp4" would be read as protocol a
            "w",
            format=suffix.removeprefix("."),
            options={"fflags": "+bitexact", **_FORMAT_OPTIONS.get(suffix, {})},
        )
        stream = self._container.add_stream(codec, self._fps, dict(_CODEC_OPTIONS[codec]))
        assert isinstance(stream, av.VideoStream)
        self._context = context = stream.codec_context
        context.width, context.height, context.time_base = width, height, self._tick_s
        context.thread_count = 1
        context.flags |= av.codec.context.Flags.bitexact
        self._graph = _filter_graph(suffix, width, height, self._tick_s)
        context.pix_fmt = "pal8" if suffix == ".gif" else "yuv420p"
        if suffix != ".gif":
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _TV_RANGE

    def _begin(self) -> None:
        self._container.start_encoding()

    def _add(self, frame_HWC: npt.NDArray[np.uint8]) -> None:
        frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
        start, stop = (
            round(index / self._fps / self._tick_s)
            for index in (self.num_frames, self.num_frames + 1)
        )
        frame.time_base, frame.pts, frame.duration = self._tick_s, start, stop - start
        self._graph.vpush(frame)
        self._encode_filtered()

    def _encode_filtered(self) -> None:
        while True:
            try:
                frame = self._graph.vpull()
            except (BlockingIOError, EOFError):
                return
            self._container.mux(self._context.encode(frame))

    def _finish(self) -> None:
        self._graph.vpush(None)
        self._encode_filtered()
        self._container.mux(self._context.encode(None))
        self._container.close()
        flush_to_disk(self._partial)

    def _abandon(self) -> None:
        with suppress(OSError, av.FFmpegError):
            self._container.close()


class _PngSink(FrameSink):
    """frame_00000.png, frame_00001.png, ... in one directory."""

    def _begin(self) -> None:
        for stale in self._partial.iterdir():
            stale.unlink()

    def _add(self, frame_HWC: npt.NDArray[np.uint8]) -> None:
        Image.fromarray(frame_HWC).save(self._partial / f"frame_{self.num_frames:05d}.png")

    def _finish(self) -> None:
        for frame in (*self._partial.iterdir(), self._partial):
            flush_to_disk(frame)

    def _abandon(self) -> None:
        pass


def _filter_graph(suffix: str, width: int, height: int, tick_s: Fraction) -> av.filter.Graph:
    """RGB to yuv420p (BT.709, limited range), or for .gif to a palette per frame."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24"), time_base=tick_s
    )
    sink = graph.add("buffersink")
    if suffix == ".gif":
        split = graph.add("split")
        palette = graph.add("palettegen", "stats_mode=single")
        # Ordered dither stands still where the picture does; error diffusion flickers.
        paint = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=5")
        graph.link_nodes(source, split, palette)
        split.link_to(paint, 1, 0)
        palette.link_to(paint, 0, 1)
        paint.link_to(sink)
    else:
        scale, pixels = graph.add("scale", _TO_BT709), graph.add("format", "yuv420p")
        graph.link_nodes(source, scale, pixels, sink)
    graph.configure()
    return graph
