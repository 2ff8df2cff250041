"""Latents files: safetensors, one float32 tensor "latents" [L, C, h, w].

Written and read in slices of frames, so that no rank ever holds all of them.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError, safe_open

from video_infinity.destination import write_failed
from video_infinity.errors import LatentsError
from video_infinity.output import partial_path, remove_partial

TENSOR_NAME = "latents"
CHECK_SLICE_FRAMES = 64


class LatentsWriter:
    """Write latent frames in timeline order; the file appears, whole, when the `with` ends.

    Raises LatentsError if another run is writing it, RunError if the disk does not take it.
    """

    def __init__(self, path: Path, shape_LCHW: tuple[int, int, int, int]) -> None:
        self._path, self._shape = path, shape_LCHW

    def __enter__(self) -> Self:
        size = 4 * math.prod(self._shape)
        entry = {"dtype": "F32", "shape": self._shape, "data_offsets": [0, size]}
        header = json.dumps({TENSOR_NAME: entry}, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._expected = 8 + len(header) + size
        try:
            self._stream = partial_path(self._path).open("ab")  # not "wb": it may be another's
        except OSError as error:
            raise write_failed(self._path, error) from error
        with self._whole_or_absent():
            self._lock()
            self._stream.truncate(0)
            self._stream.write(len(header).to_bytes(8, "little") + header)
        return self

    def _lock(self) -> None:
        """Keep other runs, and what removes a dead run's files, off the temp file."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LatentsError(
                f"--save-latents {self._path} is being written by another run; name another file"
            ) from None
        except OSError:
            pass  # a network file system without locks

    def write(self, z_FCHW: torch.Tensor) -> None:
        """Append frames: [F, C, h, w], on any device."""
        with self._whole_or_absent():
            self._stream.write(z_FCHW.to("cpu", torch.float32).contiguous().numpy().tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._discard()
            return
        with self._whole_or_absent():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            size = self._stream.tell()
            assert size == self._expected, "fewer or more latent frames than announced"
            partial_path(self._path).replace(self._path)
            self._stream.close()

    @contextmanager
    def _whole_or_absent(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise write_failed(self._path, error) from error
            raise

    def _discard(self) -> None:
        with suppress(OSError):  # what is buffered cannot be written either
            self._stream.close()
        with suppress(OSError):
            remove_partial(self._path)


def check_latents(path: Path, shape_LCHW: tuple[int, int, int, int]) -> None:
    """Raise LatentsError unless the file holds finite float32 latents of that shape."""
    where = f"--initial-latents {path}"
    try:
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
            if names != [TENSOR_NAME]:
                raise LatentsError(f"{where} holds {names}; it must hold one tensor {TENSOR_NAME}")
            latents = tensors.get_slice(TENSOR_NAME)
            shape, dtype = tuple(latents.get_shape()), latents.get_dtype()
            if shape != shape_LCHW or dtype != "F32":
                raise LatentsError(
                    f"{where} holds {dtype} {list(shape)}; this request needs F32 "
                    f"{list(shape_LCHW)} (frames, channels, height, width)"
                )
            for start in range(0, shape[0], CHECK_SLICE_FRAMES):
                if not bool(torch.isfinite(latents[start : start + CHECK_SLICE_FRAMES]).all()):
                    raise LatentsError(f"{where} has NaN or infinite values; write it anew")
    except (OSError, SafetensorError) as error:
        raise LatentsError(
            f"{where} cannot be read as safetensors: {error}; name a file of --save-latents"
        ) from error


def read_latents(path: Path, start: int, stop: int) -> torch.Tensor:
    """Latent frames [start, stop) of a checked file. Returns float32 [1, C, F, h, w]."""
    with safe_open(path, framework="pt") as tensors:
        z_FCHW: torch.Tensor = tensors.get_slice(TENSOR_NAME)[start:stop]
    return z_FCHW.transpose(0, 1)[None].contiguous()
