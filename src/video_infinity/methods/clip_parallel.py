"""Clip parallelism with dual-scope attention: all clips are denoised together.

Source: Tan et al., Video-Infinity: Distributed Long Video Generation (2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.methods.base import DenoiseJob
from video_infinity.sampling import guide, initial_sigma, scale_input, scheduler_step


def denoise_clip_parallel(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip while the temporal layers exchange context with the others."""
    return denoise_with(job, ClipContext(job.comm, job.plan, job.text, job.schedule))


@torch.inference_mode()
def denoise_with(job: DenoiseJob, context: ClipContext) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip with what `context` brings to the layers that look over time."""
    scheduler, adapter = job.scheduler, job.adapter
    wide = torch.promote_types(adapter.dtype, torch.float32)
    z_1CFHW = job.noise_1CFHW.to(adapter.device, wide) * initial_sigma(scheduler)
    with installed(adapter.sites(), context):
        for step, timestep in enumerate(scheduler.timesteps):
            noise_level = float(timestep)
            z_BCFHW = z_1CFHW.expand(job.text.num_branches, -1, -1, -1, -1)
            z_BCFHW = scale_input(scheduler, z_BCFHW, timestep)
            with context.at(noise_level, step):
                predicted = adapter.denoise(z_BCFHW, timestep, job.text)
            z_1CFHW = scheduler_step(
                scheduler,
                guide(predicted, job.guidance.at(noise_level)),
                timestep,
                z_1CFHW,
                seed=job.seed,
                frames=job.clip.frames,
                step=step,
            )
            yield z_1CFHW
