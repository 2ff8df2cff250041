"""Help the temporal layers to find out where in the clip a frame lies.

The UNet has no position embedding: only the zeros beyond the ends, which its temporal convolutions
pad with, tell a frame where it is. Left to itself training finds that late, and without it a first
direction means nothing. Linear heads on the temporal transformers' outputs ask for it; they are
thrown away after training.

Shapes: N heads, B clips, F frames, K = B * F, C channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

RANGE_FRAMES = 5.0  # both ends fade over so many frames, whatever the length


def end_distances(num_frames: int) -> Tensor:
    """Nearness_F2 to the first and to the last frame: 1 there, falling to 0 with the distance."""
    index_F = torch.arange(num_frames, dtype=torch.float32)
    both_F2 = torch.stack([index_F, num_frames - 1 - index_F], 1)
    return torch.exp(-both_F2 / RANGE_FRAMES)


class PositionHeads(nn.Module):
    """One linear head for each temporal transformer of the UNet's blocks."""

    def __init__(self, unet: UNet3DConditionModel) -> None:
        super().__init__()
        self._guesses: list[Tensor] = []
        self.heads = nn.ModuleList()
        for name, module in unet.named_modules():
            if isinstance(module, TransformerTemporalModel) and name != "transformer_in":
                head = nn.Linear(module.config.in_channels, 2)
                self.heads.append(head)
                module.register_forward_hook(partial(self._guess, head))

    def _guess(self, head: nn.Module, module: nn.Module, inputs: Any, output: Any) -> None:
        pooled_KC = output[0].float().mean((2, 3))
        with torch.autocast("cpu", enabled=False):
            self._guesses.append(head(nn.functional.layer_norm(pooled_KC, pooled_KC.shape[1:])))

    def loss(self, num_frames: int) -> Tensor:
        """Mean squared error of the heads over the UNet's last pass, which is then forgotten."""
        target_F2 = end_distances(num_frames)
        guess_NBF2 = torch.stack(self._guesses).unflatten(1, (-1, num_frames))
        self._guesses.clear()
        error: Tensor = (guess_NBF2 - target_F2).square().mean()
        return error
