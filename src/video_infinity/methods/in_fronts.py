"""Clip parallelism that does not begin everywhere at once.

What a scene leaves open, such as its speed, is settled in the first steps, and by each
neighbourhood for itself when all frames take them together; where two disagree, the motion breaks.
Here every frame has a step of its own: it waits as noise until a front reaches it (`fronts.py`),
and is then denoised beside frames that are further on.

A pass is about the frames that take a step, with their local scopes. They are the timeline of that
pass, and are shared out evenly among the ranks, whoever keeps them; if they are fewer than the
ranks, some ranks sit it out. What lies between two such parts is left out, and the frames on its
sides are neighbours there: none of them takes a step, and at its two ends a pass is padded as a
video is at its own. So a long wait costs passes of few frames, and the work is linear in the
length. The bias is that of the noisiest frame of a pass; the global context is chosen among its
frames.

That frames at different noise levels help each other is from Kim et al., FIFO-Diffusion (2024),
whose queue is one such front, of one frame a step; Ruhe et al., Rolling Diffusion Models (2024),
and Chen et al., Diffusion Forcing (2024), train models for it. Here nothing is trained. What is
done stands at timestep 0, what waits at the first.

Every frame that begins with another step has a scheduler of its own (`staggered.py`), so that one
which remembers its last steps will do.

Legend: C channels, F frames, H height, W width, T frames of the whole timeline
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from video_infinity.comm import Communicator
from video_infinity.config import MethodSpec, chosen
from video_infinity.context.exchange import fetch
from video_infinity.context.install import Layers, installed
from video_infinity.context.layers import ClipContext
from video_infinity.fronts import Fronts
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.loop import predict_guided, unit_scale
from video_infinity.methods.shared_windows import FRAME_DIM
from video_infinity.peers import CUTS
from video_infinity.plan import Clip, Plan, split_timeline
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
    return Staggered(job.scheduler, fronts.delays(job.num_frames), job.clip.frames)


@dataclass(frozen=True)
class Pass:
    """How a pass about some frames of a video is shared out.

    plan    of these frames, numbered anew, in even clips of as many of the first ranks as take part
    wanted  per rank, the frames of its clip there, by their numbers in the video
    kept    per rank, the frames of its clip of the video, by their new numbers; None without any
    """

    plan: Plan
    wanted: tuple[tuple[int, ...], ...]
    kept: tuple[Clip | None, ...]

    @classmethod
    def about(cls, plan: Plan, frames: tuple[int, ...]) -> Pass:
        """A pass about rising frames of the video that a plan shares out."""
        here = plan
        if len(frames) < plan.num_latent_frames:
            num_ranks = ranks_taking_part(len(frames), plan.num_ranks)
            here = replace(plan, clips=split_timeline(len(frames), num_ranks))
        idle = plan.num_ranks - here.num_ranks
        bounds = [[bisect_left(frames, end) for end in (c.start, c.stop)] for c in plan.clips]
        return cls(
            here,
            (*(frames[clip.start : clip.stop] for clip in here.clips), *[()] * idle),
            tuple(Clip(first, stop) if first < stop else None for first, stop in bounds),
        )

    def frames_received(self, plan: Plan, rank: int) -> int:
        """Latent frames that come to a rank before it, and predictions that come back."""
        transfers = (*plan.transfers(self.wanted), *self.plan.transfers(self.kept))
        return sum(len(t.frames) for t in transfers if t.target == rank)


def ranks_taking_part(num_frames: int, num_ranks: int) -> int:
    """How many ranks share a pass about some frames: all, or else a half, a quarter, ...

    So there are few groups of ranks to make, each of which takes memory of a GPU.
    """
    while num_ranks > num_frames:
        num_ranks //= 2
    return num_ranks


class FirstRanks:
    """The first ranks of a communicator among themselves, for passes that the others sit out."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._made: dict[int, Communicator] = {}

    def of(self, size: int) -> Communicator:
        """Between the first `size` ranks; of no use to the others. All ranks call alike."""
        if size not in self._made:
            others = [[rank] for rank in range(size, self._comm.size)]
            self._made[size] = self._comm.subgroup([range(size), *others])
        return self._made[size]


def pass_at(how: MethodSpec, plan: Plan, num_inference_steps: int, done: int) -> Pass:
    """What the pass after `done` steps is about, if a denoise moves on in fronts.

    An ablation, whose clips must stay what they are, has all frames in every pass.
    """
    fronts, frames = fronts_of(how), range(plan.num_latent_frames)
    assert fronts is not None, "a method without fronts"
    if set(CUTS).intersection(how.parts_left_out):
        return Pass.about(plan.at_step(done), tuple(frames))
    parts = fronts.parts(len(frames), done, num_inference_steps, plan.local_frames)
    return Pass.about(plan.at_step(done), tuple(itertools.chain(*parts)))


def widest_pass(how: MethodSpec, plan: Plan, num_inference_steps: int) -> Pass:
    """The first of those about most frames."""
    fronts = fronts_of(how)
    assert fronts is not None, "a method without fronts"
    sizes = fronts.sizes(plan.num_latent_frames, num_inference_steps, plan.local_frames)
    return pass_at(how, plan, num_inference_steps, sizes.index(max(sizes)))


@torch.inference_mode()
def denoise_in_fronts(
    job: DenoiseJob, context: ClipContext, layers: Layers | None = None
) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip, each frame from the step on at which a front reaches it.

    The job's scheduler is that of `staggered_scheduler`.
    """
    scheduler: Staggered = job.scheduler
    z_1CFHW = job.begun_1CFHW
    if z_1CFHW is None:
        z_1CFHW = unit_scale(job, job.noise_1CFHW)
    steps = job.num_inference_steps
    total, first = steps_in_fronts(job.how, job.num_frames, steps), FirstRanks(job.comm)
    with installed(job.adapter.sites(), context, layers, per_frame_times=True):
        for done in range(job.first_step, total):
            here = pass_at(job.how, job.plan, steps, done)
            context.hold(here.plan, first.of(here.plan.num_ranks))
            timestep_K = scheduler.timesteps_of(itertools.chain(*here.wanted), done)
            with context.at(float(timestep_K.max()), done):
                predicted_1CFHW = _predict(job, context, here, scheduler, z_1CFHW, done)
            z_1CFHW = scheduler.stepped(
                predicted_1CFHW,
                z_1CFHW,
                done,
                seed=job.seed,
                first_frame=job.clip.start,
                eta=job.eta,
            )
            yield z_1CFHW


def _predict(
    job: DenoiseJob,
    context: ClipContext,
    here: Pass,
    scheduler: Staggered,
    z_1CFHW: torch.Tensor,
    done: int,
) -> torch.Tensor:
    """Guided predictions of this rank's clip, from the pass after `done` steps; 0 for frames that
    it is not about."""
    rank, scaled_1CFHW = job.comm.rank, scheduler.scaled(z_1CFHW, done)
    own_1CFHW = fetch(job.comm, job.plan, here.wanted, scaled_1CFHW, FRAME_DIM)
    predicted_1CFHW = z_1CFHW[:, :, :0]
    if own_1CFHW is not None:
        frames = here.wanted[rank]
        timestep_F = scheduler.timesteps_of(frames, done)
        predicted_1CFHW = predict_guided(job, context, own_1CFHW, timestep_F, job.texts_of(frames))
    back_1CFHW = fetch(job.comm, here.plan, here.kept, predicted_1CFHW.to(z_1CFHW), FRAME_DIM)
    whole_1CFHW = torch.zeros_like(z_1CFHW)
    if back_1CFHW is not None:
        places = [
            frame - job.clip.start for own in here.wanted for frame in own if frame in job.clip
        ]
        whole_1CFHW[:, :, places] = back_1CFHW
    return whole_1CFHW
