"""Bring what the ranks hold to rank 0, in timeline order, in bounded pieces.

Nobody gathers: a rank ahead of its turn keeps its pieces on disk, and rank 0 pulls one piece at
a time. All ranks take part in every round, so that each wait is as long as one piece takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from video_infinity.comm import Communicator, Message
from video_infinity.errors import RunError


class Spool:
    """uint8 pieces on disk, in order. The file has no name, so that it cannot be left over.

    Raises RunError if the disk has no room.
    """

    def __init__(self, directory: Path | None = None) -> None:
        with _room_needed():
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 (`close`)
        self.shapes: list[tuple[int, ...]] = []
        self._offsets: list[int] = [0]

    def __len__(self) -> int:
        return len(self.shapes)

    def append(self, piece: torch.Tensor) -> None:
        with _room_needed():
            self._file.seek(self._offsets[-1])
            self._file.write(piece.contiguous().numpy().tobytes())
            self._file.flush()
        self.shapes.append(tuple(piece.shape))
        self._offsets.append(self._file.tell())

    def read(self, index: int) -> torch.Tensor:
        self._file.seek(self._offsets[index])
        data = bytearray(self._file.read(self._offsets[index + 1] - self._offsets[index]))
        shape = self.shapes[index]
        return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape))

    def close(self) -> None:
        with suppress(OSError):  # what was not flushed is not wanted any more
            self._file.close()


@contextmanager
def _room_needed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"finished frames cannot wait in {tempfile.gettempdir()}: {error.strerror}; make room "
            "there, or set TMPDIR to a directory on a larger disk"
        ) from error


def pull_in_order(
    comm: Communicator,
    shapes: Sequence[Sequence[tuple[int, ...]]],
    piece: Callable[[int], torch.Tensor],
    sink: Callable[[torch.Tensor], None],
    dtype: torch.dtype,
) -> None:
    """Hand every rank's pieces to `sink` on rank 0, in timeline order, one at a time.

    shapes  per rank, the shape of each of its pieces (known to all, from the plan)
    piece   the nth piece of this rank, on the CPU
    """
    for rank in range(comm.size):
        for index, shape in enumerate(shapes[rank]):
            if comm.rank == rank and rank == 0:
                sink(piece(index))
            elif comm.rank == rank:
                own = piece(index).to("cpu", dtype).contiguous()
                comm.post([Message(0, own)], []).wait()
            elif comm.rank == 0:
                buffer = torch.empty(shape, dtype=dtype)
                comm.post([], [Message(rank, buffer)]).wait()
                sink(buffer)
            comm.barrier()
