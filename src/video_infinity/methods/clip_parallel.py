"""Clip parallelism with dual-scope attention: all clips are denoised together.

Source: Tan et al., Video-Infinity: Distributed Long Video Generation (2024).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.workspace import Workspace
from video_infinity.methods.base import DenoiseJob
from video_infinity.sampling import guide, initial_sigma, scale_input, scheduler_step


def denoise_clip_parallel(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip while the temporal layers exchange context with the others."""
    workspace = Workspace.of(job.adapter.device.type)
    context = ClipContext(job.comm, job.plan, job.texts[0], job.schedule, workspace)
    return denoise_with(job, context)


@torch.inference_mode()
def denoise_with(job: DenoiseJob, context: ClipContext) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip with what `context` brings to the layers that look over time."""
    scheduler, adapter = job.scheduler, job.adapter
    wide = torch.promote_types(adapter.dtype, torch.float32)
    z_1CFHW = job.begun_1CFHW
    if z_1CFHW is None:
        z_1CFHW = job.noise_1CFHW.to(adapter.device, wide) * initial_sigma(scheduler)
    with installed(adapter.sites(), context):
        for step in range(job.first_step, len(scheduler.timesteps)):
            timestep = scheduler.timesteps[step]
            noise_level = float(timestep)
            with context.at(noise_level, step):
                predicted = _predict(job, context, z_1CFHW, timestep)
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


def _predict(
    job: DenoiseJob, context: ClipContext, z_1CFHW: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """Predictions [B, C, F, H, W] of all branches, whichever rank and pass they come from."""
    parts = []
    for text in job.texts:
        context.text = text
        z_BCFHW = z_1CFHW.expand(text.num_branches, -1, -1, -1, -1)
        z_BCFHW = scale_input(job.scheduler, z_BCFHW, timestep)
        parts.append(job.adapter.denoise(z_BCFHW, timestep, text))
    rows, pending = job.branches.gather(parts[0] if len(parts) == 1 else torch.cat(parts))
    pending.wait()
    return rows.flatten(0, 1)
