"""Clip parallelism with dual-scope attention: all clips are denoised together.

Source: Tan et al., Video-Infinity: Distributed Long Video Generation (2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.context.install import Layers, installed
from video_infinity.context.layers import ClipContext
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.loop import context_of, denoise_stepwise, predict_guided


def denoise_clip_parallel(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip while the temporal layers exchange context with the others."""
    return denoise_with(job, context_of(job))


def denoise_with(
    job: DenoiseJob, context: ClipContext, layers: Layers | None = None
) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip with what `context` brings to the layers that look over time."""

    def predict(z_1CFHW: torch.Tensor, timestep: torch.Tensor, step: int) -> torch.Tensor:
        with context.at(float(timestep), step):
            return predict_guided(job, context, z_1CFHW, timestep, job.texts)

    with installed(job.adapter.sites(), context, layers):
        yield from denoise_stepwise(job, predict)
