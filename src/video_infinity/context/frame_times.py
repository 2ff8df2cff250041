"""A timestep of its own for every frame, where a denoiser was made for one per video.

Where layers take the time embedding frame by frame, each with a projection of its own, the
projection is swapped by one that reads the frames' embeddings from the context.

Legend: K frames of all branches, C channels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from video_infinity.context.exchange import eager
from video_infinity.context.layers import ClipContext


@dataclass(frozen=True)
class FrameTimeSite:
    """A projection [K, C] of the time embedding: `getattr(parent, attribute)`.

    embed  timesteps [K] and the type to compute in to what the projection is given for them
    """

    parent: nn.Module
    attribute: str
    embed: Callable[[torch.Tensor, torch.dtype], torch.Tensor]


class FrameTimeProjection(nn.Module):
    """The projection of each frame's own timestep, inside `ClipContext.timed`; else as it was."""

    def __init__(self, site: FrameTimeSite, context: ClipContext) -> None:
        super().__init__()
        self.inner: nn.Module = getattr(site.parent, site.attribute)
        self._embed, self._context = site.embed, context

    @eager
    def forward(self, hidden_KC: torch.Tensor) -> torch.Tensor:
        timestep_K = self._context.timestep_K
        if timestep_K is not None:
            assert len(timestep_K) == len(hidden_KC), "a timestep for every frame of the slice"
            hidden_KC = self._embed(timestep_K.to(hidden_KC.device), hidden_KC.dtype)
        projected: torch.Tensor = self.inner(hidden_KC)
        return projected
