"""Clip parallelism with dual-scope attention: all clips are denoised together.

Source: Tan et al., Video-Infinity: Distributed Long Video Generation (2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.config import MethodSpec
from video_infinity.context.ablation import Ablation
from video_infinity.context.install import Layers, installed
from video_infinity.context.layers import ClipContext
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.in_fronts import denoise_in_fronts, fronts_of
from video_infinity.methods.independent import clips_of, joins_of_clips
from video_infinity.methods.loop import context_of, denoise_stepwise, predict_guided
from video_infinity.peers import CUTS
from video_infinity.windows import even_spans, joins_of


def denoise_clip_parallel(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip while the temporal layers exchange context with the others.

    All frames take the same step, or each the one at which a front reaches it. Without those parts
    of the exchange that the request leaves out, as an ablation.
    """
    cut = set(CUTS).intersection(job.how.parts_left_out)
    layers = None
    if cut:
        layers = Ablation.of(cut, clips_of(job.how, job.num_frames), job.clip).layers()
    if job.how.front_frames:
        return denoise_in_fronts(job, context_of(job), layers)
    return denoise_with(job, context_of(job), layers)


def joins_of_parts(how: MethodSpec, num_frames: int) -> tuple[int, ...]:
    """Where an ablation cuts the exchange, or else where the stretches of several fronts meet.

    Clips of ranks are not told: where they meet nothing is made apart.
    """
    if set(CUTS).intersection(how.parts_left_out):
        return joins_of_clips(how, num_frames)
    fronts = fronts_of(how)
    return joins_of(even_spans(num_frames, fronts.span)) if fronts else ()


def denoise_with(
    job: DenoiseJob, context: ClipContext, layers: Layers | None = None
) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip with what `context` brings to the layers that look over time."""

    def predict(z_1CFHW: torch.Tensor, timestep: torch.Tensor, step: int) -> torch.Tensor:
        with context.at(float(timestep), step):
            return predict_guided(job, context, z_1CFHW, timestep, job.texts)

    with installed(job.adapter.sites(), context, layers):
        yield from denoise_stepwise(job, predict)
