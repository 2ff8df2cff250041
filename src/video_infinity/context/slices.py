"""Layers slice by slice: what sees tokens, frames or pixels alone needs no room for all of them.

Legend: C channels, K frames of all branches, S sequences (batch x pixels), F frames,
H height, W width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from video_infinity.context.exchange import eager
from video_infinity.context.layers import ClipContext


@dataclass(frozen=True)
class TokenSite:
    """A module that treats every token [..., C] alone: `getattr(parent, attribute)`.

    widest_channels  of what it makes of one token on the way
    """

    parent: nn.Module
    attribute: str
    widest_channels: int


def _joined(parts: Iterator[torch.Tensor], count: int) -> torch.Tensor:
    """The results of all slices along the first dim, as one tensor."""
    out, offset = None, 0
    for part in parts:
        if out is None:
            out = part.new_empty((count, *part.shape[1:]))
        out[offset : offset + len(part)] = part
        offset += len(part)
    assert out is not None
    return out


# Compiled, a loop over slices would be unrolled; the module in it is compiled all the same.
_outside_graphs = partial(eager, recursive=False)


class SlicedTokens(nn.Module):
    """A module that sees every token [..., C] alone, such as a transformer's feed-forward."""

    def __init__(self, inner: nn.Module, widest_channels: int, context: ClipContext) -> None:
        super().__init__()
        self.inner, self._context = inner, context
        self._widest_channels = widest_channels

    @_outside_graphs
    def forward(self, hidden: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        flat_TC = hidden.reshape(-1, hidden.shape[-1])
        token_bytes = self._widest_channels * hidden.element_size()
        slices = self._context.workspace.slices(len(flat_TC), token_bytes)
        if slices[0].stop == len(flat_TC):
            whole: torch.Tensor = self.inner(hidden, *args, **named)
            return whole
        parts = (self.inner(flat_TC[part], *args, **named) for part in slices)
        return _joined(parts, len(flat_TC)).view(*hidden.shape[:-1], -1)


class SlicedFrames(nn.Module):
    """A module that sees every frame alone: [K, C, H, W], with whatever else has K rows.

    A module that returns a tuple of one tensor does so still.
    """

    def __init__(self, inner: nn.Module, context: ClipContext) -> None:
        super().__init__()
        self.inner, self._context = inner, context

    @_outside_graphs
    def forward(self, hidden_KCHW: torch.Tensor, *args: Any, **named: Any) -> Any:
        count = len(hidden_KCHW)
        slices = self._context.workspace.slices(count, hidden_KCHW[0].nbytes)
        if slices[0].stop == count:
            return self.inner(hidden_KCHW, *args, **named)
        in_tuple = False

        def run(part: slice) -> torch.Tensor:
            nonlocal in_tuple

            def own(x: Any) -> Any:
                has_rows = isinstance(x, torch.Tensor) and x.ndim > 0 and len(x) == count
                return x[part] if has_rows else x

            given = {name: own(x) for name, x in named.items()}
            with self._context.reading(part):
                out = self.inner(hidden_KCHW[part], *map(own, args), **given)
            in_tuple = isinstance(out, tuple)
            return out[0] if in_tuple else out  # type: ignore[no-any-return]

        joined = _joined(map(run, slices), count)
        return (joined,) if in_tuple else joined


class SlicedSequences(nn.Module):
    """A module over time [S, F, C] that sees every sequence, which is one pixel, alone.

    How many slices there are must not differ between ranks, since each exchanges frames: the
    longest clip decides.
    """

    def __init__(self, inner: nn.Module, context: ClipContext) -> None:
        super().__init__()
        self.inner, self._context = inner, context

    @_outside_graphs
    def forward(self, hidden_SFC: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        context, count = self._context, len(hidden_SFC)
        longest = max(map(len, context.plan.clips))
        sequence_bytes = longest * hidden_SFC.shape[2] * hidden_SFC.element_size()
        slices = context.workspace.slices(count, sequence_bytes, of_sequences=True)
        if slices[0].stop == count:
            whole: torch.Tensor = self.inner(hidden_SFC, *args, **named)
            return whole
        return _joined((self.inner(hidden_SFC[part], *args, **named) for part in slices), count)
