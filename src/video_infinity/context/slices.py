"""Feed-forward layers slice by slice: they see every token alone, and make the widest tensors.

Legend: C channels
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from video_infinity.context.exchange import eager

SLICE_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Of the widest tensor of one slice. On a CPU it stays in the cache: benchmarks/slices.md."""


@dataclass(frozen=True)
class TokenSite:
    """A module that treats every token [..., C] alone: `getattr(parent, attribute)`.

    widest_channels  of what it makes of one token on the way
    """

    parent: nn.Module
    attribute: str
    widest_channels: int


class SlicedTokens(nn.Module):
    """In the place of a token-wise module: the same, on a few tokens at a time."""

    def __init__(self, inner: nn.Module, widest_channels: int) -> None:
        super().__init__()
        self.inner, self._widest_channels = inner, widest_channels

    # Compiled, the loop would be unrolled; the module in it is compiled all the same.
    @partial(eager, recursive=False)
    def forward(self, hidden: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        slice_bytes = SLICE_BYTES.get(hidden.device.type, SLICE_BYTES["cuda"])
        tokens = max(1, slice_bytes // (self._widest_channels * hidden.element_size()))
        flat_TC = hidden.reshape(-1, hidden.shape[-1])
        if len(flat_TC) <= tokens:
            whole: torch.Tensor = self.inner(hidden, *args, **named)
            return whole
        out_TC: torch.Tensor | None = None
        for start in range(0, len(flat_TC), tokens):
            part_TC = self.inner(flat_TC[start : start + tokens], *args, **named)
            if out_TC is None:
                out_TC = part_TC.new_empty((len(flat_TC), part_TC.shape[-1]))
            out_TC[start : start + tokens] = part_TC
        assert out_TC is not None
        return out_TC.view(*hidden.shape[:-1], -1)
