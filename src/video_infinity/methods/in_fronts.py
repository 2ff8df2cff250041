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

Every frame that begins with another step has a scheduler of its own (`staggered.py`), so that one
which remembers its last steps will do.

Legend: C channels, F frames, H height, W width, T frames of the whole timeline
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from video_infinity.config import MethodSpec, chosen
from video_infinity.context.install import Layers, installed
from video_infinity.context.layers import ClipContext
from video_infinity.fronts import Fronts
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.loop import predict_guided, unit_scale
from video_infinity.staggered import Staggered


def fronts_of(how: MethodSpec) -> Fronts | None:
    """The fronts of a resolved method; None if all frames begin together."""
    if not how.front_frames:
        return None
    return Fronts(how.front_frames, chosen(how.front_span))


def steps_in_fronts(how: MethodSpec, num_frames: int, num_inference_steps: int) -> int:
    """The scheduler's, and those that the last frame waits."""
    fronts = fronts_of(how)
    return num_inference_steps + (fronts.longest_delay(num_frames) if fronts else 0)


def staggered_scheduler(job: DenoiseJob) -> Any:
    """The job's scheduler, or one in which its frames begin as fronts reach them."""
    fronts = fronts_of(job.how)
    if fronts is None:
        return job.scheduler
    delay_T = fronts.delays(job.num_frames)
    return Staggered(job.scheduler, delay_T[job.clip.start : job.clip.stop], delay_T)


@torch.inference_mode()
def denoise_in_fronts(
    job: DenoiseJob, context: ClipContext, layers: Layers | None = None
) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip, each frame from the step on at which a front reaches it.

    The job's scheduler is that of `staggered_scheduler`.
    """
    scheduler: Staggered = job.scheduler
    times, longest = scheduler.timesteps, scheduler.groups[-1].delay
    z_1CFHW = job.begun_1CFHW
    if z_1CFHW is None:
        z_1CFHW = unit_scale(job, job.noise_1CFHW)
    with installed(job.adapter.sites(), context, layers, per_frame_times=True):
        for done in range(job.first_step, len(times) + longest):
            scaled_1CFHW, timestep_F = scheduler.scaled(z_1CFHW, done)
            noisiest = float(times[max(0, done - longest)])
            with context.at(noisiest, done):
                predicted_1CFHW = predict_guided(job, context, scaled_1CFHW, timestep_F, job.texts)
            z_1CFHW = scheduler.stepped(
                predicted_1CFHW,
                z_1CFHW,
                done,
                seed=job.seed,
                first_frame=job.clip.start,
                eta=job.eta,
            )
            yield z_1CFHW
