"""How much of a layer's work goes at a time, and frames in the parts that they came in. Pure.

On a CPU a slice stays in the cache, and is small enough for the allocator to use its memory again,
so that a frame takes as long in a long video as in a short one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Workspace:
    """How many bytes a slice of a layer may have.

    layer_bytes     of the widest tensor of a slice of tokens or frames
    sequence_bytes  of the input of a slice of sequences over time, each an exchange of its own
    first_alone     do the first slice of each layer and no more: where only shapes are traced
    For a CPU by measurement: benchmarks/slices.md.
    """

    layer_bytes: int = 1 << 21
    sequence_bytes: int = 1 << 23
    first_alone: bool = False

    @classmethod
    def of(cls, device_type: str) -> Workspace:
        """What suits a kind of device: a CPU's caches, or large kernels on a GPU (not measured)."""
        return cls() if device_type == "cpu" else cls(1 << 28, 1 << 28)

    def slices(self, count: int, bytes_of_one: int, *, of_sequences: bool = False) -> list[slice]:
        """`count` things in as few slices as the room allows, alike in size."""
        room = self.sequence_bytes if of_sequences else self.layer_bytes
        number = -(-count // max(1, room // bytes_of_one))
        bounds = [index * count // number for index in range(number + 1)]
        slices = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
        return slices[:1] if self.first_alone else slices


class FramesAtHand:
    """A tensor of frames in timeline order, in the parts that they came in.

    parts  received from earlier ranks, one's own, received from later ranks; frames along `dim`
    """

    def __init__(self, parts: Sequence[torch.Tensor], dim: int) -> None:
        self._parts, self._dim = list(parts), dim

    def __len__(self) -> int:
        return sum(part.shape[self._dim] for part in self._parts)

    def pieces(self, first: int, last: int) -> list[torch.Tensor]:
        """Frames [first, last) as views, one of each part that has some of them."""
        found, offset = [], 0
        for part in self._parts:
            frames = part.shape[self._dim]
            start, stop = max(first - offset, 0), min(last - offset, frames)
            if start < stop:
                found.append(part.narrow(self._dim, start, stop - start))
            offset += frames
        return found

    def span(self, first: int, last: int) -> torch.Tensor:
        """Frames [first, last): a view where they lie in one part."""
        found = self.pieces(first, last)
        return found[0] if len(found) == 1 else torch.cat(found, self._dim)

    def pick(self, places: Sequence[int]) -> torch.Tensor:
        """The frames at some places, rising."""
        return torch.cat([self.span(place, place + 1) for place in places], self._dim)
