"""One chunk after the other, each going on from frames that are there already.

A chunk is shared by all ranks, as a video of its own under clip parallelism whose local scope is
the whole chunk: the unmodified model, on any number of ranks. Between chunks every rank holds the
chunk that was made last, so that what is known is known to all.

Legend: C channels, F frames, K known frames, H height, W width
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from video_infinity.comm import Communicator
from video_infinity.config import MethodSpec, chosen
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.workspace import Workspace
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.loop import predict_guided, unit_scale
from video_infinity.noise import HELD_STEP, initial_noise
from video_infinity.plan import Plan, Scopes, split_timeline
from video_infinity.sampling import scale_input, scheduler_step
from video_infinity.windows import Windows

FRAME_DIM = 2
"""Frames in [1, C, F, H, W]."""

Hold = Callable[[Any, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Scheduler, known frames, unit noise drawn for them at this step, step -> what stands in their
place in that step."""


def clean(
    scheduler: Any, known_1CKHW: torch.Tensor, noise_1CKHW: torch.Tensor, step: int
) -> torch.Tensor:
    """A `Hold` that adds no noise."""
    return known_1CKHW


def chunks_of(how: MethodSpec, num_frames: int) -> tuple[range, ...]:
    """The chunks of the timeline: each begins with frames of the one before.

    Evenly spread, so that none knows far more frames than a model was trained to go on from.
    """
    windows = Windows(chosen(how.window_frames), chosen(how.stride_frames))
    return windows.spread(num_frames)


def steps_of_chunks(how: MethodSpec, num_frames: int, num_inference_steps: int) -> int:
    return len(chunks_of(how, num_frames)) * num_inference_steps


def joins_of_chunks(how: MethodSpec, num_frames: int) -> tuple[int, ...]:
    """Where what a chunk adds begins, for all but the first."""
    return tuple(chunk.stop for chunk in chunks_of(how, num_frames)[:-1])


@torch.inference_mode()
def denoise_chunks(job: DenoiseJob, hold: Hold, *, told: bool) -> Iterator[torch.Tensor]:
    """Denoise chunk after chunk; yields this rank's clip, with noise where nothing is made yet.

    told  whether the denoiser is told which frames are known: clean, and at timestep 0
    """
    clip, made_1CFHW = job.clip, unit_scale(job, job.noise_1CFHW)
    end, known_1CKHW = 0, made_1CFHW[:, :, :0]
    chunks = chunks_of(job.how, job.num_frames)
    for chunk, following in zip(chunks, (*chunks[1:], None), strict=True):
        steps = ChunkSteps(job, chunk, known_1CKHW, hold, told=told)
        for _ in range(job.num_inference_steps - 1):
            next(steps)
            yield made_1CFHW
        next(steps)
        whole_1CFHW = steps.whole()
        new = range(max(end, clip.start), min(chunk.stop, clip.stop))
        if new:
            part = whole_1CFHW.narrow(FRAME_DIM, new.start - chunk.start, len(new))
            made_1CFHW.narrow(FRAME_DIM, new.start - clip.start, len(new)).copy_(part)
        if following is not None:
            known_1CKHW = whole_1CFHW[:, :, following.start - chunk.start :]
        end = chunk.stop
        yield made_1CFHW


class ChunkSteps:
    """The denoise of one chunk, step by step, on all ranks together.

    known_1CKHW  frames that the chunk begins with; they end as they are, bit for bit
    first_draw   key of what its first step draws, where these frames take such steps again
    """

    def __init__(
        self,
        job: DenoiseJob,
        chunk: range,
        known_1CKHW: torch.Tensor,
        hold: Hold | None = None,
        *,
        told: bool = False,
        first_draw: int = 0,
    ) -> None:
        self._job, self._hold, self._told, self._first_draw = job, hold, told, first_draw
        self._plan = Plan(split_timeline(len(chunk), job.comm.size), Scopes(len(chunk), 0))
        own = self._plan.clips[job.comm.rank]
        self._frames = range(chunk.start + own.start, chunk.start + own.stop)
        self._known = known_1CKHW[:, :, own.start : own.stop]
        self._texts = job.texts_of(self._frames)
        noise_1CFHW = job.noise_of(self._frames).to(job.adapter.device)
        self._scheduler = copy.deepcopy(job.scheduler)
        workspace = Workspace.of(job.adapter.device.type)
        self._context = ClipContext(job.comm, self._plan, self._texts[0], workspace=workspace)
        self._z, self._step = unit_scale(job, noise_1CFHW), 0

    def __next__(self) -> torch.Tensor:
        """Take one step. Returns this rank's frames of the chunk."""
        job, step, num_known = self._job, self._step, self._known.shape[FRAME_DIM]
        timestep = self._scheduler.timesteps[step]
        z_1CFHW = self._z
        if self._hold is not None and num_known:
            unit = initial_noise(
                job.seed,
                self._frames[:num_known],
                (z_1CFHW.shape[1], *z_1CFHW.shape[3:]),
                key=HELD_STEP - step,
            )
            held = self._hold(self._scheduler, self._known, unit.to(z_1CFHW), step)
            z_1CFHW = torch.cat((held, z_1CFHW[:, :, num_known:]), FRAME_DIM)
        scaled, timesteps = scale_input(self._scheduler, z_1CFHW, timestep), timestep
        if self._told:
            timesteps = timestep.repeat(len(self._frames))
            timesteps[:num_known] = 0
            scaled = torch.cat((self._known, scaled[:, :, num_known:]), FRAME_DIM)
        with (
            installed(job.adapter.sites(), self._context, per_frame_times=self._told),
            self._context.at(float(timestep), step),
        ):
            predicted = predict_guided(job, self._context, scaled, timesteps, self._texts)
        self._z = scheduler_step(
            self._scheduler,
            predicted,
            timestep,
            z_1CFHW,
            seed=job.seed,
            frames=self._frames,
            step=self._first_draw + step,
            eta=job.eta,
        )
        self._step += 1
        return self._z

    def whole(self) -> torch.Tensor:
        """The chunk's frames of all ranks [1, C, F, H, W], on every rank; after the last step."""
        num_known = self._known.shape[FRAME_DIM]
        own = torch.cat((self._known, self._z[:, :, num_known:]), FRAME_DIM)
        lengths = [len(clip) for clip in self._plan.clips]
        return torch.cat(gather_frames(self._job.comm, own, lengths), FRAME_DIM)


def gather_frames(
    comm: Communicator, own_1CFHW: torch.Tensor, lengths: list[int]
) -> list[torch.Tensor]:
    """A few frames of every rank, on every rank. lengths: how many each has."""
    shape = list(own_1CFHW.shape)
    shape[FRAME_DIM] = max(lengths)
    padded = own_1CFHW.new_zeros(shape)
    padded[:, :, : own_1CFHW.shape[FRAME_DIM]] = own_1CFHW
    rows, pending = comm.gather(padded)
    pending.wait()
    return [row[:, :, :length] for row, length in zip(rows, lengths, strict=True)]
