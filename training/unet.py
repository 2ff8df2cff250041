"""The embedded model's denoiser, and the way to train its spatial layers alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import UNet3DConditionModel
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

from training.text import HIDDEN_SIZE

LATENT_CHANNELS = 8
LATENT_SIZE = 8


def build_unet() -> UNet3DConditionModel:
    """An untrained UNet whose temporal layers add nothing yet and have no dropout."""
    unet = UNet3DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(96, 128),
        layers_per_block=1,
        cross_attention_dim=HIDDEN_SIZE,
        attention_head_dim=32,
        norm_num_groups=16,
    )
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
        elif isinstance(module, TemporalConvLayer):
            nn.init.zeros_(module.conv4[-1].weight)
            nn.init.zeros_(module.conv4[-1].bias)
            for part in module.modules():
                if isinstance(part, nn.Dropout):
                    part.p = 0.0
    return unet


class _PassConvolution(nn.Module):
    """Stands in for a TemporalConvLayer and returns its input."""

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        return hidden_states


class _PassTransformer(nn.Module):
    """Stands in for a TransformerTemporalModel and returns its input."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        return (hidden_states,)


@contextmanager
def temporal_layers_bypassed(unet: UNet3DConditionModel) -> Iterator[None]:
    """Inside, every frame is denoised by itself: temporal layers are swapped for identities."""
    swapped: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, TemporalConvLayer):
                swapped.append((module, name, child, _PassConvolution()))
            elif isinstance(child, TransformerTemporalModel):
                swapped.append((module, name, child, _PassTransformer()))
    for module, name, _, stand_in in swapped:
        setattr(module, name, stand_in)
    try:
        yield
    finally:
        for module, name, child, _ in swapped:
            setattr(module, name, child)
