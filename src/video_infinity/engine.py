"""One run on one rank: text, noise, denoise, decode, and rank 0's ordered hand-over.

Every rank runs this alike; what differs is the clip that the plan gives it.

Legend: B batch, C channels, F frames, S text tokens, D text channels, H height, W width
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from video_infinity.adapters.base import Adapter
from video_infinity.collect import Spool, pull_in_order
from video_infinity.comm import Communicator
from video_infinity.config import Request, chosen
from video_infinity.context.layers import BiasSchedule
from video_infinity.latents import LatentsWriter, read_latents
from video_infinity.memory import PeakMemory
from video_infinity.methods import METHODS, DenoiseJob
from video_infinity.noise import initial_noise
from video_infinity.plan import Clip, Plan, Scopes, split_timeline
from video_infinity.sampling import check_splittable

DECODE_SLICE_FRAMES = 8
LATENTS_SLICE_FRAMES = 64

Sink = Callable[[torch.Tensor], None]
"""Takes uint8 [P, H, W, 3] in timeline order; called on rank 0 alone."""


class Observer(Protocol):
    """Hears how a run goes: events "phase", "step" and "frames", with plain data."""

    def __call__(self, event: str, **data: Any) -> None: ...


@dataclass
class Measures:
    """What one rank measured. Seconds by phase and by step; bytes received by step."""

    seconds: dict[str, float] = field(default_factory=dict)
    seconds_per_step: list[float] = field(default_factory=list)
    bytes_per_step: list[int] = field(default_factory=list)
    peak_memory_bytes: int = 0

    @contextmanager
    def phase(self, name: str, observer: Observer) -> Iterator[None]:
        observer("phase", name=name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def make_plan(request: Request, num_latent_frames: int, num_ranks: int) -> Plan:
    """The plan of a resolved request. Raises PlanError if a rank would get no frame."""
    scopes = Scopes(chosen(request.scopes.local_frames), chosen(request.scopes.global_frames))
    return Plan(split_timeline(num_latent_frames, num_ranks), scopes)


class ClipRun:
    """One request on one rank. Call `denoise`, then `deliver_latents` or `deliver_frames`."""

    def __init__(
        self,
        request: Request,
        adapter: Adapter,
        comm: Communicator,
        plan: Plan,
        observer: Observer,
    ) -> None:
        self._request, self._adapter, self._comm = request, adapter, comm
        self.plan, self._observer = plan, observer
        self.measures = Measures()

    @property
    def clip(self) -> Clip:
        return self.plan.clips[self._comm.rank]

    def denoise(self) -> torch.Tensor:
        """The clip's final latents [1, C, F, H, W], before the scaling that decoding wants."""
        measures = self.measures
        with measures.phase("encode", self._observer):
            text_BFSD = self._frame_text()
        job = self._job(text_BFSD)
        memory = PeakMemory(self._adapter.device)
        with measures.phase("denoise", self._observer):
            latents = self._walk(job)
        measures.peak_memory_bytes = memory.peak_bytes()
        return latents

    def _walk(self, job: DenoiseJob) -> torch.Tensor:
        total = len(job.scheduler.timesteps)
        latents = job.noise_1CFHW
        received, begin = self._comm.bytes_received, time.perf_counter()
        for step, z_1CFHW in enumerate(METHODS[self._request.run.method](job)):
            latents = z_1CFHW
            now = time.perf_counter()
            self.measures.seconds_per_step.append(now - begin)
            self.measures.bytes_per_step.append(self._comm.bytes_received - received)
            received, begin = self._comm.bytes_received, now
            self._observer("step", step=step + 1, of=total, frames=self.plan.num_latent_frames)
        return latents

    def _job(self, text_BFSD: torch.Tensor) -> DenoiseJob:
        request, scopes = self._request, self._request.scopes
        steps = chosen(request.video.num_inference_steps)
        scheduler = self._adapter.make_scheduler()
        check_splittable(scheduler, steps)
        scheduler.set_timesteps(steps, device=self._adapter.device)
        schedule = BiasSchedule(
            chosen(scopes.local_bias), chosen(scopes.global_bias), chosen(scopes.bias_switch)
        )
        return DenoiseJob(
            self._adapter,
            self._comm,
            self.plan,
            schedule,
            scheduler,
            chosen(request.video.guidance_scale),
            text_BFSD,
            self._noise(),
            request.video.seed,
        )

    def _noise(self) -> torch.Tensor:
        video = self._request.video
        if video.initial_latents is not None:
            return read_latents(video.initial_latents, self.clip.start, self.clip.stop)
        shape_CHW = self._adapter.facts.latent_shape_CHW(chosen(video.height), chosen(video.width))
        return initial_noise(video.seed, self.clip.frames, shape_CHW)

    def _frame_text(self) -> torch.Tensor:
        """Text states of the clip's frames: [2 or 1, F, S, D], the negative prompt first."""
        timeline, video, facts = self._request.timeline, self._request.video, self._adapter.facts
        text_PSD = self._adapter.encode([video.negative_prompt, *timeline.prompts])
        negative_SD, prompts_PSD = text_PSD[0], text_PSD[1:]
        rows = []
        for frame in self.clip.frames:
            mix = timeline.mix(facts.first_pixel_frame(frame))
            rows.append(torch.lerp(prompts_PSD[mix.before], prompts_PSD[mix.after], mix.weight))
        text_FSD = torch.stack(rows)
        if chosen(video.guidance_scale) <= 1:
            return text_FSD[None]
        return torch.stack((negative_SD.expand_as(text_FSD), text_FSD))

    def deliver_latents(self, z_1CFHW: torch.Tensor, writer: LatentsWriter | None) -> None:
        """Stream all latents to rank 0's writer, in slices and in timeline order."""
        channels, _, height, width = z_1CFHW[0].shape
        slices_FCHW = z_1CFHW[0].transpose(0, 1).split(LATENTS_SLICE_FRAMES)
        shapes = [
            [(n, channels, height, width) for n in _slice_sizes(len(clip), LATENTS_SLICE_FRAMES)]
            for clip in self.plan.clips
        ]
        sink = writer.write if writer is not None else _nowhere
        pull_in_order(
            self._comm, shapes, lambda i: slices_FCHW[i].float(), sink, dtype=torch.float32
        )

    def deliver_frames(self, z_1CFHW: torch.Tensor, sink: Sink) -> None:
        """Decode on all ranks at once; hand every picture to rank 0's sink, in order.

        Rank 0 is always in turn; the others spool to disk until it pulls from them.
        """
        sink = self._timed(sink)
        with self.measures.phase("decode", self._observer):
            spool = self._decode(z_1CFHW[0], sink if self._comm.rank == 0 else None)
        with self.measures.phase("collect", self._observer):
            shapes = self._comm.gather_json(spool.shapes)
            pull_in_order(
                self._comm,
                [[tuple(shape) for shape in rows] for rows in shapes],
                spool.read,
                sink,
                dtype=torch.uint8,
                first_rank=1,
            )
        spool.close()

    def _decode(self, z_CFHW: torch.Tensor, sink: Sink | None) -> Spool:
        spool = Spool()
        pieces = self._adapter.decode(z_CFHW, DECODE_SLICE_FRAMES)
        rounds = max(len(_slice_sizes(len(c), DECODE_SLICE_FRAMES)) for c in self.plan.clips)
        for _ in range(rounds):
            piece = next(pieces, None)
            if piece is not None:
                (sink or spool.append)(piece)
            self._comm.barrier()
        return spool

    def _timed(self, sink: Sink) -> Sink:
        total = self._request.video.num_frames
        done = 0

        def timed(piece: torch.Tensor) -> None:
            nonlocal done
            begin = time.perf_counter()
            sink(piece)
            seconds = self.measures.seconds
            seconds["write"] = seconds.get("write", 0.0) + time.perf_counter() - begin
            done += len(piece)
            self._observer("frames", frames=done, of=total)

        return timed


def _slice_sizes(num_frames: int, slice_frames: int) -> list[int]:
    return [min(slice_frames, num_frames - i) for i in range(0, num_frames, slice_frames)]


def _nowhere(_: torch.Tensor) -> None:
    return None
