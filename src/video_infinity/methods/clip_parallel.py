"""Clip parallelism with dual-scope attention: all clips are denoised together.

Source: Tan et al., Video-Infinity: Distributed Long Video Generation (2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.methods.base import DenoiseJob
from video_infinity.sampling import guide, scheduler_step


@torch.inference_mode()
def denoise_clip_parallel(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip while the temporal layers exchange context with the others."""
    scheduler, adapter = job.scheduler, job.adapter
    context = ClipContext(job.comm, job.plan, job.schedule, text_NSD=job.text_BFSD.flatten(0, 1))
    z_1CFHW = job.noise_1CFHW.to(adapter.device) * scheduler.init_noise_sigma
    with installed(adapter.sites(), context):
        for step, timestep in enumerate(scheduler.timesteps):
            z_BCFHW = z_1CFHW.expand(len(job.text_BFSD), -1, -1, -1, -1)
            z_BCFHW = scheduler.scale_model_input(z_BCFHW, timestep)
            with context.at(noise_level=float(timestep)):
                predicted = adapter.denoise(z_BCFHW, timestep, job.text_BFSD[:, 0])
            z_1CFHW = scheduler_step(
                scheduler,
                guide(predicted, job.guidance_scale),
                timestep,
                z_1CFHW,
                seed=job.seed,
                frames=job.clip.frames,
                step=step,
            )
            yield z_1CFHW
