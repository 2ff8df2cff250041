"""FIFO-Diffusion: a queue of frames at rising noise levels; out comes one clean frame an iteration.

Source: Kim et al., FIFO-Diffusion: Generating Infinite Videos from Text without Training (2024).

The queue holds S = n f frames, one for every step of the scheduler, the cleanest first. In an
iteration all of them take one step, each with its own timestep, in overlapping windows of f frames
(latent partitioning) of which only the noisier half is kept (lookahead denoising): for the front,
f // 2 frames stand before the queue that are finished. Then the cleanest leaves, and fresh noise
enters. The queue begins with the first f frames as the model makes them, noised to their levels:
S - f copies of frame 0 before the rest; those leave first, and are dropped.

What differs from the original: the frames before the queue are clean, at timestep 0, where the
original gives them the lowest noise level. Every frame has a scheduler of its own, so that
multistep schedulers work; those that cannot begin at any step are refused. The original's draw
noise at every step; here the model's own does or does not. Fresh noise may be FreeNoise's. Windows
of an iteration are shared out over the ranks, which all hold the whole queue. The models were
trained on one timestep for all frames; as in the original, nothing is trained. A denoiser that
takes one for all frames is refused. Frames past the end of the video enter the queue, and never
leave it.

As in the original, the copies of frame 0 go through the queue before it, and little of what was
made first outlives its noise: the video that is delivered begins in the middle of a motion.

Legend: C channels, F frames, H height, W width
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from video_infinity.config import MethodSpec, chosen
from video_infinity.context.install import installed
from video_infinity.errors import ModelError
from video_infinity.history import captured
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.continuation import FRAME_DIM, ChunkSteps, gather_frames
from video_infinity.methods.loop import context_alone, predict_guided, unit_scale, whole_plan
from video_infinity.methods.shared_windows import deal
from video_infinity.noise import QUEUE_STEP, initial_noise
from video_infinity.sampling import begun_at, noised, scale_input, scheduler_step


@dataclass(frozen=True)
class QueueWindow:
    """A window over what stands before the queue and the queue: places [start, stop).

    kept  the first place whose prediction counts, those after it up to `stop` as well
    """

    start: int
    kept: int
    stop: int


def queue_windows(window_frames: int, queue_frames: int) -> list[QueueWindow]:
    """The windows of one iteration: every place of the queue is kept by one of them.

    Places count from the first of the window_frames // 2 frames before the queue.
    """
    before = window_frames // 2
    length, windows = before + queue_frames, []
    for kept in range(before, length, window_frames - before):
        stop = min(kept + window_frames - before, length)
        windows.append(QueueWindow(stop - window_frames, kept, stop))
    return windows


@dataclass
class Entry:
    """A frame of the queue. frame: of the timeline, or before or after it; step: the next one."""

    frame: int
    z_1C1HW: torch.Tensor
    scheduler: Any
    step: int

    def timestep(self) -> torch.Tensor:
        timestep: torch.Tensor = self.scheduler.timesteps[self.step]
        return timestep


def steps_of_fifo(how: MethodSpec, num_frames: int, num_inference_steps: int) -> int:
    """Of the first frames as the model makes them, then one for every frame that leaves."""
    return 2 * num_inference_steps - chosen(how.window_frames) + num_frames


@torch.inference_mode()
def denoise_fifo(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise frame after frame; yields this rank's clip, with noise where nothing is made yet."""
    check_any_step(job.scheduler)
    clip, made_1CFHW = job.clip, unit_scale(job, job.noise_1CFHW)
    first = ChunkSteps(
        job,
        range(chosen(job.how.window_frames)),
        made_1CFHW[:, :, :0],
        first_draw=job.num_inference_steps,  # the queue's steps of the same frames draw others
    )
    for _ in range(job.num_inference_steps):
        next(first)
        yield made_1CFHW
    queue = Queue(job, first.whole())
    while True:
        frame, z_1C1HW = queue.advance()
        if frame in clip:
            made_1CFHW[:, :, frame - clip.start] = z_1C1HW[:, :, 0]
        yield made_1CFHW
        if frame == job.num_frames - 1:
            return


class Queue:
    """The queue, alike on every rank. first_1CFHW: the first f frames, clean."""

    def __init__(self, job: DenoiseJob, first_1CFHW: torch.Tensor) -> None:
        self._job, width = job, first_1CFHW.shape[FRAME_DIM]
        self._size = job.num_inference_steps
        self._dealt = deal(queue_windows(width, self._size), job.comm.size)
        self._context = context_alone(job)
        self._context.hold(whole_plan(width))
        frame_0 = first_1CFHW[:, :, :1]
        self._before = deque([(0, frame_0)] * (width // 2), maxlen=width // 2)
        self._entries: deque[Entry] = deque()
        shape_CHW = (frame_0.shape[1], *frame_0.shape[3:])
        for place in range(self._size):
            frame, step = place - (self._size - width), self._size - 1 - place
            clean = first_1CFHW[:, :, max(0, frame)][:, :, None]
            unit = initial_noise(job.seed, [frame], shape_CHW, key=QUEUE_STEP).to(clean)
            z_1C1HW = noised(job.scheduler, clean, unit, step)
            self._entries.append(Entry(frame, z_1C1HW, begun_at(job.scheduler, step), step))

    def advance(self) -> tuple[int, torch.Tensor]:
        """Every frame takes a step. Returns the one that leaves, and its latents."""
        job, entries = self._job, self._entries
        predicted = self._predict()
        for place, entry in enumerate(entries):
            entry.z_1C1HW = scheduler_step(
                entry.scheduler,
                predicted[:, :, place : place + 1],
                entry.timestep(),
                entry.z_1C1HW,
                seed=job.seed,
                frames=[entry.frame],
                step=entry.step,
                eta=job.eta,
            )
            entry.step += 1
        done = entries.popleft()
        self._before.append((max(0, done.frame), done.z_1C1HW))
        new = entries[-1].frame + 1 if entries else done.frame + 1
        z_1C1HW = unit_scale(job, job.noise_of(range(new, new + 1)))
        entries.append(Entry(new, z_1C1HW, begun_at(job.scheduler, 0), 0))
        return done.frame, done.z_1C1HW

    def _predict(self) -> torch.Tensor:
        """Guided predictions of the whole queue, from the windows of all ranks."""
        job, rank = self._job, self._job.comm.rank
        frames = [frame for frame, _ in self._before] + [max(0, e.frame) for e in self._entries]
        scaled = [z for _, z in self._before] + [
            scale_input(e.scheduler, e.z_1C1HW, e.timestep()) for e in self._entries
        ]
        z_1CFHW = torch.cat(scaled, FRAME_DIM)
        times = [e.timestep() for e in self._entries]
        timestep_F = torch.stack([torch.zeros_like(times[0])] * len(self._before) + times)
        kept = [z_1CFHW[:, :, :0]]
        with installed(job.adapter.sites(), self._context, per_frame_times=True):
            for w in self._dealt[rank]:
                span = slice(w.start, w.stop)
                texts = job.texts_of(frames[span])
                predicted = predict_guided(
                    job, self._context, z_1CFHW[:, :, span], timestep_F[span], texts
                )
                kept.append(predicted[:, :, w.kept - w.start :].to(z_1CFHW))
        lengths = [sum(w.stop - w.kept for w in own) for own in self._dealt]
        return torch.cat(gather_frames(job.comm, torch.cat(kept, FRAME_DIM), lengths), FRAME_DIM)


def check_any_step(scheduler: Any) -> None:
    """Raise ModelError, by name, for a scheduler that cannot begin at any of its steps.

    One can if it is told where to begin, or if a step leaves no trace in it.
    """
    if hasattr(scheduler, "set_begin_index"):
        return
    stepped, z = copy.deepcopy(scheduler), torch.zeros(1, 1, 1, 2, 2)
    timestep = stepped.timesteps[0]
    scheduler_step(stepped, z, timestep, z, seed=0, frames=[0], step=0)
    state, _ = captured(stepped, scheduler, torch.Size((1, 1, 2, 2)))
    if state["state"]:
        raise ModelError(
            f"--method fifo has every frame at another step, and {type(scheduler).__name__} cannot "
            "begin at any; choose another scheduler, such as DDIMScheduler"
        )
