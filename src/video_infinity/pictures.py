"""Finished pictures in the run directory, so that a failure while decoding decodes nothing twice.

    pictures.rgb          uint8 frames, one after the other
    carried.safetensors   what the decoder hands from one round of chunks to the next
    marker.json           how far both are whole; renamed last

Rank 0 alone reads and writes here.

Legend: P pixel frames, H height, W width
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from video_infinity.destination import atomic_write_bytes
from video_infinity.sealed import read_sealed, write_sealed

FORMAT = 1
PIECE_BYTES = 32 * 1024 * 1024
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Decoded:
    """How far a decode is: all chunks before `chunk`, which are `num_frames` pixel frames.

    carried  the decoder's own, in the order of its layers
    """

    chunk: int = 0
    num_frames: int = 0
    carried: list[torch.Tensor] = field(default_factory=list)


class Pictures:
    """The pictures of one run. Making the object touches nothing.

    run      the run's id
    size_HW  of a picture
    """

    def __init__(self, directory: Path, run: str, size_HW: tuple[int, int]) -> None:
        self._directory, self._run, self._size = directory, run, size_HW
        self._file, self._marker = directory / "pictures.rgb", directory / "marker.json"
        self._frame_bytes = size_HW[0] * size_HW[1] * 3
        self._digest = hashlib.sha256()
        self._num_frames = self._turn = 0

    def find(self) -> Decoded:
        """What an earlier process has left, if it is whole; and be ready to add to it.

        Raises ValueError, saying why, if there is something that cannot be used, and OSError.
        """
        self._digest, self._num_frames = hashlib.sha256(), 0
        self._directory.mkdir(exist_ok=True)
        if not self._marker.exists():
            self._file.write_bytes(b"")
            return Decoded()
        try:
            found = self._read()
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            self._digest, self._num_frames = hashlib.sha256(), 0
            self._marker.unlink(missing_ok=True)
            self._file.write_bytes(b"")
            raise ValueError(str(error)) from error
        os.truncate(self._file, found.num_frames * self._frame_bytes)
        self._num_frames = found.num_frames
        return found

    def _read(self) -> Decoded:
        body = read_sealed(self._marker)
        if body["format"] != FORMAT or body["run"] != self._run or body["size"] != [*self._size]:
            raise ValueError("they are another run's")
        chunk, num_frames, turn = (int(body[k]) for k in ("chunk", "frames", "turn"))
        left = num_frames * self._frame_bytes
        with self._file.open("rb") as stream:
            while left > 0 and (data := stream.read(min(left, _READ_BYTES))):
                self._digest.update(data)
                left -= len(data)
        if left or self._digest.hexdigest() != body["sha256"]:
            raise ValueError("the pictures are not whole")
        data = self._carried_file(turn).read_bytes()
        if hashlib.sha256(data).hexdigest() != body["carried"]:
            raise ValueError("what the decoder carried is not whole")
        self._turn = turn
        carried = load(data)
        return Decoded(chunk, num_frames, [carried[str(n)] for n in range(len(carried))])

    def _carried_file(self, turn: int) -> Path:
        """Two names in turn, so that a marker's own is never written over."""
        return self._directory / f"carried-{turn % 2}.safetensors"

    def pieces(self, num_frames: int) -> Iterator[torch.Tensor]:
        """The first frames again, uint8 [P, H, W, 3], a few at a time."""
        for count in self.piece_sizes(num_frames):
            with self._file.open("rb") as stream:
                stream.seek(count.start * self._frame_bytes)
                data = bytearray(stream.read(len(count) * self._frame_bytes))
            shape = (len(count), *self._size, 3)
            yield torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape))

    def piece_sizes(self, num_frames: int) -> list[range]:
        """The frames of every piece; the same on every rank."""
        step = max(1, PIECE_BYTES // self._frame_bytes)
        return [range(n, min(n + step, num_frames)) for n in range(0, num_frames, step)]

    def add(self, pictures_PHWC: torch.Tensor) -> None:
        """Append finished pictures. Raises OSError."""
        data = pictures_PHWC.contiguous().numpy().tobytes()
        with self._file.open("ab") as stream:
            stream.write(data)
        self._digest.update(data)
        self._num_frames += len(pictures_PHWC)

    def commit(self, chunk: int, carried: Sequence[torch.Tensor]) -> None:
        """All that was added is whole, up to a chunk. Raises OSError or RunError."""
        descriptor = os.open(self._file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        data = save({str(n): x.detach().cpu().contiguous() for n, x in enumerate(carried)})
        self._turn += 1
        atomic_write_bytes(self._carried_file(self._turn), data)
        body = {
            "format": FORMAT,
            "run": self._run,
            "size": [*self._size],
            "chunk": chunk,
            "frames": self._num_frames,
            "turn": self._turn,
            "sha256": self._digest.hexdigest(),
            "carried": hashlib.sha256(data).hexdigest(),
        }
        write_sealed(self._marker, body)
