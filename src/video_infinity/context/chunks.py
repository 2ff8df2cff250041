"""Decode one video on all ranks at once, chunk by chunk, when later frames need earlier ones.

The timeline is cut into chunks of a few latent frames, dealt to the ranks in turn. In a round
every rank decodes one chunk, all of them layer by layer together: a causal layer takes the last
input frames of the chunk before it from the rank that has that chunk. The first chunk of a round
takes them from the last rank's chunk of the round before, which has sent them on already. So no
frame is computed twice, nobody waits for more than one layer, pictures come out in order, and a
rank holds one chunk whatever the length of the video. What a chunk computes is the same on any
number of ranks.

Legend: N batch, C channels, F frames, H height, W width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from video_infinity.comm import Communicator, Message
from video_infinity.plan import Clip

FRAME_DIM = 2


@dataclass(frozen=True)
class Chunks:
    """The timeline in chunks of `chunk_frames`; the last may be shorter. Pure."""

    num_latent_frames: int
    chunk_frames: int

    def __len__(self) -> int:
        return -(-self.num_latent_frames // self.chunk_frames)

    def __getitem__(self, index: int) -> Clip:
        start = index * self.chunk_frames
        return Clip(start, min(start + self.chunk_frames, self.num_latent_frames))

    def rounds(self, num_ranks: int, first_chunk: int = 0) -> Iterator[list[int | None]]:
        """In each round, from `first_chunk` on, the chunk of every rank, or None."""
        for first in range(first_chunk, len(self), num_ranks):
            indices = range(first, first + num_ranks)
            yield [index if index < len(self) else None for index in indices]


class ChunkStream:
    """One rank's end of the hand-over between neighbouring chunks.

    `begin` names the chunk that the rank decodes next; then every causal layer calls `before`
    once, in the same order on every rank. A decoder that goes over a picture in parts sets
    `part`, which tells the passes over the same layers apart.
    """

    def __init__(self, comm: Communicator, chunks: Chunks) -> None:
        self._comm, self._chunks = comm, chunks
        self._index = -1
        self._first = 0
        self._carried: dict[Any, torch.Tensor] = {}
        self._left_over: list[torch.Tensor] = []
        self.part: Any = None

    @property
    def is_first(self) -> bool:
        """Whether the chunk begins the video."""
        return self._index == 0

    @property
    def carried(self) -> list[torch.Tensor]:
        """Between two rounds, on rank 0: what the next one follows, in the order of the layers."""
        return list(self._carried.values())

    def go_on(self, first_chunk: int, carried: list[torch.Tensor]) -> None:
        """Begin at a chunk, with what `carried` was before it, on whatever number of ranks."""
        self._first, self._left_over = first_chunk, list(carried)

    def begin(self, index: int) -> None:
        """Decode chunk `index` next; it must be this rank's in its round."""
        assert (index - self._first) % self._comm.size == self._comm.rank
        self._index = index

    def before(self, layer: Any, own_NCFHW: torch.Tensor, num_frames: int) -> torch.Tensor | None:
        """The last `num_frames` input frames of a layer in the chunk before; None at the start.

        own_NCFHW  this chunk's input, of which as many frames are handed to the next chunk
        """
        tail = None
        if self._index + 1 < len(self._chunks):
            assert own_NCFHW.shape[FRAME_DIM] >= num_frames, "a chunk is shorter than its tail"
            tail = own_NCFHW[:, :, -num_frames:].clone(memory_format=torch.contiguous_format)
        arrived = tail
        if self._comm.size > 1:
            arrived = self._pass_on(tail, own_NCFHW, num_frames)
        if self._comm.rank:
            return arrived
        # Rank 0's next chunk follows what has arrived; this one follows what came a round ago.
        head = self._carried.pop((self.part, layer), None)
        if self._left_over:
            head = self._left_over.pop(0).to(own_NCFHW.device)
        if arrived is not None:
            self._carried[self.part, layer] = arrived
        return head

    def _pass_on(
        self, tail: torch.Tensor | None, own_NCFHW: torch.Tensor, num_frames: int
    ) -> torch.Tensor | None:
        rank, size = self._comm.rank, self._comm.size
        sends = [] if tail is None else [Message((rank + 1) % size, tail)]
        following = self._index if rank else self._index + size
        if not 0 < following < len(self._chunks):
            self._comm.post(sends, []).wait()
            return None
        shape = list(own_NCFHW.shape)
        shape[FRAME_DIM] = num_frames
        buffer = own_NCFHW.new_empty(shape)
        self._comm.post(sends, [Message((rank - 1) % size, buffer)]).wait()
        return buffer
