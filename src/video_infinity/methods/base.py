"""What a method is given, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from video_infinity.adapters.base import Adapter
from video_infinity.comm import Communicator
from video_infinity.config import MethodSpec, chosen
from video_infinity.context.layers import BiasSchedule
from video_infinity.context.text import FrameText
from video_infinity.plan import Clip, Plan
from video_infinity.sampling import GuidanceSchedule
from video_infinity.windows import Windows, joins_of


@dataclass(frozen=True)
class DenoiseJob:
    """One rank's share of a denoise.

    comm              between the ranks of the clips
    branches          between the ranks that share a clip's branches of guidance
    scheduler         its timesteps set, in the state of `first_step`
    eta               of DDIM: how much noise every step draws
    texts             of the clip's frames, for each pass of the denoiser: the branches of
                      guidance that this rank goes through, together or one after the other
    noise_1CFHW       unit noise of the clip's frames, float32
    first_step        the step to begin with
    begun_1CFHW       the clip's latents before it; None: the noise
    how               the method's own options, resolved
    texts_of          the same as `texts`, of any frames of the timeline
    noise_of          the same as `noise_1CFHW`, of any span of the timeline
    """

    adapter: Adapter
    comm: Communicator
    branches: Communicator
    plan: Plan
    schedule: BiasSchedule
    scheduler: Any
    guidance: GuidanceSchedule
    eta: float
    texts: tuple[FrameText, ...]
    noise_1CFHW: torch.Tensor
    seed: int
    how: MethodSpec
    texts_of: Callable[[Sequence[int]], tuple[FrameText, ...]]
    noise_of: Callable[[range], torch.Tensor]
    first_step: int = 0
    begun_1CFHW: torch.Tensor | None = None

    @property
    def clip(self) -> Clip:
        return self.plan.clips[self.comm.rank]

    @property
    def num_frames(self) -> int:
        """Latent frames of the timeline."""
        return self.plan.num_latent_frames

    @property
    def num_inference_steps(self) -> int:
        return len(self.scheduler.timesteps)


Denoise = Callable[[DenoiseJob], Iterator[torch.Tensor]]
"""Yields the clip's latents [1, C, F, H, W] after every step from `job.first_step` on.

All ranks yield alike; the last is the result. What was yielded may change with the next one.
"""


CountSteps = Callable[[MethodSpec, int, int], int]
"""A resolved method, latent frames, steps of the scheduler -> steps of the method."""


def steps_of_scheduler(how: MethodSpec, num_frames: int, num_inference_steps: int) -> int:
    return num_inference_steps


FindJoins = Callable[[MethodSpec, int], tuple[int, ...]]
"""A resolved method, latent frames -> the first ones of what is made apart, but the very first."""


def no_joins(how: MethodSpec, num_frames: int) -> tuple[int, ...]:
    return ()


def joins_of_windows(how: MethodSpec, num_frames: int) -> tuple[int, ...]:
    """Where overlapping windows begin."""
    windows = Windows(chosen(how.window_frames), chosen(how.stride_frames))
    return joins_of(windows.spans(num_frames))


def same_scheduler(job: DenoiseJob) -> Any:
    return job.scheduler


@dataclass(frozen=True)
class Method:
    """A way to denoise a long video.

    num_steps      how many steps it takes in all
    scheduler      what steps a job's frames, made of a fresh one
    joins          where a seam would be: none where all frames are made as one
    shares_chunks  whether all ranks share one chunk of the timeline after the other
    """

    denoise: Denoise
    num_steps: CountSteps = steps_of_scheduler
    scheduler: Callable[[DenoiseJob], Any] = same_scheduler
    joins: FindJoins = no_joins
    shares_chunks: bool = False
