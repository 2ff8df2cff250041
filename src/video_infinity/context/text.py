"""Text states of every frame of one clip, each distinct one held once. Pure.

Legend: R rows, S text tokens, D text channels, B branches, F frames
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class FrameText:
    """What the frames of a clip are told, in every branch of the guidance.

    rows_RSD  distinct text states
    row_BF    the row that each frame reads: with guidance the negative prompt's, then the prompt's
    """

    rows_RSD: torch.Tensor
    row_BF: tuple[tuple[int, ...], ...]

    @property
    def num_branches(self) -> int:
        return len(self.row_BF)

    @property
    def first_frames_BSD(self) -> torch.Tensor:
        """What the first frame of each branch is told."""
        return self.rows_RSD[[rows[0] for rows in self.row_BF]]

    def branch(self, index: int) -> FrameText:
        """One branch alone, with the rows that it reads."""
        used = sorted(set(self.row_BF[index]))
        row_F = tuple(used.index(row) for row in self.row_BF[index])
        return FrameText(self.rows_RSD[used], (row_F,))

    def span(self, part: slice) -> FrameText:
        """Some frames of all those of the branches, one branch after the other."""
        flat = tuple(itertools.chain.from_iterable(self.row_BF))
        return FrameText(self.rows_RSD, (flat[part],))

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """(row, start, stop): spans of equal text among all frames, branch after branch."""
        flat = itertools.chain.from_iterable(self.row_BF)
        runs, start = [], 0
        for row, frames in itertools.groupby(flat):
            stop = start + sum(1 for _ in frames)
            runs.append((row, start, stop))
            start = stop
        return tuple(runs)
