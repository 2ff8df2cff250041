"""What all methods share: a guided prediction, and a denoise that goes step by step.

Legend: B branches, C channels, F frames, H height, W width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from video_infinity.comm import SingleCommunicator
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.context.workspace import Workspace
from video_infinity.methods.base import DenoiseJob
from video_infinity.plan import Clip, Plan, Scopes
from video_infinity.sampling import guide, initial_sigma, scale_input, scheduler_step

Predict = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Latents of this rank's clip, timestep, step -> the guided prediction [1, C, F, H, W]."""


def context_of(job: DenoiseJob) -> ClipContext:
    """The context of this rank's clip among the others."""
    workspace = Workspace.of(job.adapter.device.type)
    return ClipContext(job.comm, job.plan, job.texts[0], job.schedule, workspace)


def context_alone(job: DenoiseJob) -> ClipContext:
    """A context in which a rank passes videos of its own through the model; see `hold_whole`."""
    workspace = Workspace.of(job.adapter.device.type)
    return ClipContext(SingleCommunicator(), whole_plan(1), job.texts[0], workspace=workspace)


def whole_plan(num_frames: int) -> Plan:
    """The unmodified model, on one rank: every frame sees every other."""
    return Plan((Clip(0, num_frames),), Scopes(num_frames, 0))


def unit_scale(job: DenoiseJob, noise_1CFHW: torch.Tensor) -> torch.Tensor:
    """Unit noise as the scheduler begins with it, where and as the latents are kept."""
    wide = torch.promote_types(job.adapter.dtype, torch.float32)
    return noise_1CFHW.to(job.adapter.device, wide) * initial_sigma(job.scheduler)


def predict_guided(
    job: DenoiseJob,
    context: ClipContext,
    z_1CFHW: torch.Tensor,
    timestep: torch.Tensor,
    texts: tuple[FrameText, ...],
) -> torch.Tensor:
    """The guided prediction for latents that are scaled as the denoiser wants them.

    timestep  one, or one for every frame [F]
    texts     of the frames, for each pass
    Whichever rank and pass a branch comes from. The context must be installed.
    """
    parts = []
    for text in texts:
        context.text = text
        z_BCFHW = z_1CFHW.expand(text.num_branches, -1, -1, -1, -1)
        with _times(context, timestep, text.num_branches):
            parts.append(job.adapter.denoise(z_BCFHW, timestep, text))
    rows, pending = job.branches.gather(parts[0] if len(parts) == 1 else torch.cat(parts))
    pending.wait()
    return guide(rows.flatten(0, 1), job.guidance.at(float(timestep.max())))


def _times(
    context: ClipContext, timestep: torch.Tensor, num_branches: int
) -> AbstractContextManager[None]:
    return nullcontext() if timestep.ndim == 0 else context.timed(timestep, num_branches)


@torch.inference_mode()
def denoise_stepwise(job: DenoiseJob, predict: Predict) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip: at every step a prediction, then the scheduler's step."""
    scheduler = job.scheduler
    z_1CFHW = job.begun_1CFHW
    if z_1CFHW is None:
        z_1CFHW = unit_scale(job, job.noise_1CFHW)
    for step in range(job.first_step, len(scheduler.timesteps)):
        timestep = scheduler.timesteps[step]
        z_1CFHW = scheduler_step(
            scheduler,
            predict(scale_input(scheduler, z_1CFHW, timestep), timestep, step),
            timestep,
            z_1CFHW,
            seed=job.seed,
            frames=job.clip.frames,
            step=step,
            eta=job.eta,
        )
        yield z_1CFHW
