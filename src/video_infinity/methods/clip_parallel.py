"""Clip parallelism with dual-scope attention: all clips are denoised together.

Source: Tan et al., Video-Infinity: Distributed Long Video Generation (2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.config import chosen
from video_infinity.context.ablation import Ablation
from video_infinity.context.install import Layers, installed
from video_infinity.context.layers import ClipContext
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.in_fronts import denoise_in_fronts
from video_infinity.methods.loop import context_of, denoise_stepwise, predict_guided
from video_infinity.peers import CUTS
from video_infinity.windows import even_spans


def denoise_clip_parallel(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip while the temporal layers exchange context with the others.

    All frames take the same step, or each the one at which a front reaches it. Without those parts
    of the exchange that the request leaves out, as an ablation.
    """
    cut = set(CUTS).intersection(job.how.parts_left_out)
    layers = None
    if cut:
        clips = even_spans(job.num_frames, chosen(job.how.window_frames))
        layers = Ablation.of(cut, clips, job.clip).layers()
    if job.how.front_frames:
        return denoise_in_fronts(job, context_of(job), layers)
    return denoise_with(job, context_of(job), layers)


def denoise_with(
    job: DenoiseJob, context: ClipContext, layers: Layers | None = None
) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip with what `context` brings to the layers that look over time."""

    def predict(z_1CFHW: torch.Tensor, timestep: torch.Tensor, step: int) -> torch.Tensor:
        with context.at(float(timestep), step):
            return predict_guided(job, context, z_1CFHW, timestep, job.texts)

    with installed(job.adapter.sites(), context, layers):
        yield from denoise_stepwise(job, predict)
