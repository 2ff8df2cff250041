"""Latents files: safetensors, one float32 tensor "latents" [L, C, h, w].

Written and read in slices of frames, so that no rank ever holds all of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError, safe_open

from video_infinity.errors import LatentsError
from video_infinity.output import partial_path, remove_partial

TENSOR_NAME = "latents"
CHECK_SLICE_FRAMES = 64


class LatentsWriter:
    """Write latent frames in timeline order; the file appears, whole, when the `with` ends."""

    def __init__(self, path: Path, shape_LCHW: tuple[int, int, int, int]) -> None:
        self._path, self._shape = path, shape_LCHW

    def __enter__(self) -> Self:
        size = 4
        for extent in self._shape:
            size *= extent
        header = json.dumps(
            {TENSOR_NAME: {"dtype": "F32", "shape": self._shape, "data_offsets": [0, size]}}
        ).encode()
        header += b" " * (-len(header) % 8)
        self._expected = 8 + len(header) + size
        self._stream = partial_path(self._path).open("wb")
        self._stream.write(len(header).to_bytes(8, "little") + header)
        return self

    def write(self, z_FCHW: torch.Tensor) -> None:
        """Append frames: [F, C, h, w], on any device."""
        self._stream.write(z_FCHW.to("cpu", torch.float32).contiguous().numpy().tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stream:
            whole = kind is None and self._stream.tell() == self._expected
            if whole:
                self._stream.flush()
                os.fsync(self._stream.fileno())
        if not whole:
            remove_partial(self._path)
            assert kind is not None, "fewer or more latent frames were written than announced"
            return
        partial_path(self._path).replace(self._path)


def check_latents(path: Path, shape_LCHW: tuple[int, int, int, int]) -> None:
    """Raise LatentsError unless the file holds finite float32 latents of that shape."""
    try:
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
            if names != [TENSOR_NAME]:
                raise LatentsError(f"{path} holds {names}; one tensor {TENSOR_NAME!r} is wanted")
            latents = tensors.get_slice(TENSOR_NAME)
            shape, dtype = tuple(latents.get_shape()), latents.get_dtype()
            if shape != shape_LCHW or dtype != "F32":
                raise LatentsError(
                    f"{path} holds {dtype} {list(shape)}; this request needs F32 "
                    f"{list(shape_LCHW)} (frames, channels, height, width)"
                )
            for start in range(0, shape[0], CHECK_SLICE_FRAMES):
                if not bool(torch.isfinite(latents[start : start + CHECK_SLICE_FRAMES]).all()):
                    raise LatentsError(f"{path} has NaN or infinite values; write it anew")
    except (OSError, SafetensorError) as error:
        raise LatentsError(f"{path} cannot be read as safetensors: {error}") from error


def read_latents(path: Path, start: int, stop: int) -> torch.Tensor:
    """Latent frames [start, stop) of a checked file. Returns float32 [1, C, F, h, w]."""
    with safe_open(path, framework="pt") as tensors:
        z_FCHW: torch.Tensor = tensors.get_slice(TENSOR_NAME)[start:stop]
    return z_FCHW.transpose(0, 1)[None].contiguous()
