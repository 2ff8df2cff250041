"""Clip parallelism that does not begin everywhere at once.

What a scene leaves open, such as its speed, is settled in the first steps, and by each
neighbourhood for itself when all frames take them together; where two disagree, the motion breaks.
Here every frame has a step of its own: it waits as noise until a front reaches it (`fronts.py`),
and is then denoised beside frames that are further on. All clips still go through every pass
together, each with its ranks' exchange, so that the work is shared out as before; only the number
of passes grows, by as many steps as the last frame waits. A bias is that of the noisiest frame.

That frames at different noise levels help each other is from Kim et al., FIFO-Diffusion (2024),
whose queue is one such front, of one frame a step; Ruhe et al., Rolling Diffusion Models (2024),
and Chen et al., Diffusion Forcing (2024), train models for it. Here nothing is trained. What is
done stands at timestep 0, what waits at the first.

A scheduler that remembers more of its last steps than where they have led is refused: every
frame would need one of its own, and a checkpoint all of them.

Legend: C channels, F frames, H height, W width, T frames of the whole timeline
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from video_infinity.config import MethodSpec, chosen
from video_infinity.context.install import Layers, installed
from video_infinity.context.layers import ClipContext
from video_infinity.errors import ModelError
from video_infinity.fronts import Fronts
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.loop import predict_guided, remembers, unit_scale
from video_infinity.sampling import begun_at, scale_input, scheduler_step


def fronts_of(how: MethodSpec) -> Fronts | None:
    """The fronts of a resolved method; None if all frames begin together."""
    if not how.front_frames:
        return None
    return Fronts(how.front_frames, chosen(how.front_span))


def steps_in_fronts(how: MethodSpec, num_frames: int, num_inference_steps: int) -> int:
    """The scheduler's, and those that the last frame waits."""
    fronts = fronts_of(how)
    return num_inference_steps + (fronts.longest_delay(num_frames) if fronts else 0)


def check_fronts(scheduler: Any, eta: float, front_frames: int) -> None:
    """Raise ModelError, by name, for a scheduler that remembers its last steps.

    scheduler  its timesteps set, no step taken
    """
    if remembers(scheduler, eta):
        raise ModelError(
            f"--front-frames {front_frames} has frames at different steps, and "
            f"{type(scheduler).__name__} remembers its last ones; choose another scheduler, "
            "such as DDIMScheduler, or --front-frames 0"
        )


@torch.inference_mode()
def denoise_in_fronts(
    job: DenoiseJob, fronts: Fronts, context: ClipContext, layers: Layers | None = None
) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip, each frame from the step on at which a front reaches it.

    The scheduler must be one that `check_fronts` lets pass.
    """
    delay_T = fronts.delays(job.num_frames)
    own_F = delay_T[job.clip.start : job.clip.stop]
    times, last = job.scheduler.timesteps, job.num_inference_steps - 1
    z_1CFHW = job.begun_1CFHW
    if z_1CFHW is None:
        z_1CFHW = unit_scale(job, job.noise_1CFHW)
    with installed(job.adapter.sites(), context, layers, per_frame_times=True):
        for done in range(job.first_step, job.num_inference_steps + max(delay_T)):
            groups = _groups([done - delay for delay in own_F], last)
            begun = {i: begun_at(job.scheduler, i) for i in {max(0, step) for step in groups}}
            timestep_F, scaled = torch.zeros_like(times[:1]).repeat(len(own_F)), z_1CFHW.clone()
            for step, frames in groups.items():
                at = max(0, step)
                timestep_F[frames] = times[at]
                scaled[:, :, frames] = scale_input(begun[at], z_1CFHW[:, :, frames], times[at])
            noisiest = float(times[max(0, min(last, done - max(delay_T)))])
            with context.at(noisiest, done):
                predicted = predict_guided(job, context, scaled, timestep_F, job.texts)
            z_1CFHW = _stepped(job, groups, begun, predicted, z_1CFHW)
            yield z_1CFHW


def _groups(step_F: Sequence[int], last: int) -> dict[int, list[int]]:
    """Places in the clip by the step that is theirs: -1 while they wait; those done have none."""
    groups: dict[int, list[int]] = {}
    for frame, step in enumerate(step_F):
        if step <= last:
            groups.setdefault(max(-1, step), []).append(frame)
    return groups


def _stepped(
    job: DenoiseJob,
    groups: Mapping[int, list[int]],
    begun: Mapping[int, Any],
    predicted_1CFHW: torch.Tensor,
    z_1CFHW: torch.Tensor,
) -> torch.Tensor:
    """The clip's latents after the step that is each frame's; begun: a scheduler at each."""
    stepped_1CFHW = z_1CFHW.clone()
    for step, frames in groups.items():
        if step < 0:
            continue
        stepped_1CFHW[:, :, frames] = scheduler_step(
            begun[step],
            predicted_1CFHW[:, :, frames],
            job.scheduler.timesteps[step],
            z_1CFHW[:, :, frames],
            seed=job.seed,
            frames=[job.clip.start + frame for frame in frames],
            step=step,
            eta=job.eta,
        )
    return stepped_1CFHW
