"""One run on one rank: text, noise, denoise, decode, and rank 0's ordered hand-over.

Every rank runs this alike; what differs is the clip that the plan gives it.

Legend: B batch, C channels, F frames, S text tokens, D text channels, H height, W width
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from video_infinity.adapters.base import Adapter
from video_infinity.collect import pull_in_order
from video_infinity.comm import Communicator
from video_infinity.comm.base import Tally
from video_infinity.config import Request, chosen
from video_infinity.context.chunks import Chunks, ChunkStream
from video_infinity.context.exchange import fetch
from video_infinity.context.layers import BiasSchedule
from video_infinity.keeper import Held, Keeper
from video_infinity.latents import LatentsWriter
from video_infinity.materials import Materials
from video_infinity.memory import PeakMemory
from video_infinity.mesh import mesh_of
from video_infinity.methods import METHODS, DenoiseJob
from video_infinity.plan import Clip, Plan, clips_of_lengths, split_timeline
from video_infinity.sampling import GuidanceSchedule, check_eta, check_splittable, start

LATENTS_SLICE_FRAMES = 64

Sink = Callable[[torch.Tensor], None]
"""Takes uint8 [P, H, W, 3] in timeline order; called on rank 0 alone."""


class Observer(Protocol):
    """Hears how a run goes: events "phase", "step" and "frames", with plain data."""

    def __call__(self, event: str, **data: Any) -> None: ...


@dataclass
class Measures:
    """What one rank measured. Seconds by phase and by step; what it exchanged by step.

    first_step  the step that this process began with
    """

    seconds: dict[str, float] = field(default_factory=dict)
    seconds_per_step: list[float] = field(default_factory=list)
    exchanged_per_step: list[Tally] = field(default_factory=list)
    peak_memory_bytes: int = 0
    first_step: int = 0

    @property
    def bytes_per_step(self) -> list[int]:
        return [tally.bytes_received for tally in self.exchanged_per_step]

    @contextmanager
    def phase(self, name: str, observer: Observer) -> Iterator[None]:
        observer("phase", name=name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def check_scheduler(request: Request, scheduler: Any) -> None:
    """Find a model's own scheduler fit for a prepared request; its weights are not needed.

    Raises ConfigError for an eta that it has not, ModelError for one that cannot be split over
    frames.
    """
    eta = chosen(request.video.eta)
    check_eta(scheduler, eta)
    check_splittable(scheduler, chosen(request.video.num_inference_steps), eta)


class ClipRun:
    """One request on one rank. Call `denoise`, then `deliver_latents` or `deliver_frames`.

    comm  between all ranks
    plan  of the clips; ranks that share a clip's guidance hold the same one
    """

    def __init__(
        self,
        request: Request,
        adapter: Adapter,
        comm: Communicator,
        plan: Plan,
        observer: Observer,
        keeper: Keeper | None = None,
    ) -> None:
        self._request, self._adapter, self._comm = request, adapter, comm
        self.plan, self._observer, self._keeper = plan, observer, keeper
        self.measures = Measures()
        self._mesh = mesh_of(request.run.parallel, comm.size)
        self._clips = comm.subgroup(self._mesh.clip_groups)
        self._branches = comm.subgroup(self._mesh.branch_groups)

    @property
    def clip(self) -> Clip:
        return self.plan.clips[self._clips.rank]

    @property
    def clip_of_ranks(self) -> list[Clip]:
        """The clip of every rank."""
        return [self.plan.clips[self._mesh.clip_of(rank)] for rank in range(self._comm.size)]

    def _shares(self) -> Plan:
        """Who hands over which frames: ranks that hold the same clip share them out."""
        shares = [split_timeline(len(clip), self._mesh.cfg) for clip in self.plan.clips]
        return Plan(clips_of_lengths([len(s) for row in shares for s in row]), self.plan.scopes)

    def _share(self, z_1CFHW: torch.Tensor) -> torch.Tensor:
        """This rank's share [C, F, H, W] of its clip's latents."""
        span = self._shares().clips[self._comm.rank]
        return z_1CFHW[0].narrow(1, span.start - self.clip.start, len(span))

    def denoise(self) -> torch.Tensor:
        """The clip's final latents [1, C, F, H, W], before the scaling that decoding wants."""
        measures = self.measures
        with measures.phase("encode", self._observer):
            job = self.job()
        memory = PeakMemory(self._adapter.device)
        with measures.phase("denoise", self._observer):
            latents = self._walk(job)
        measures.peak_memory_bytes = memory.peak_bytes()
        return latents

    def _walk(self, job: DenoiseJob) -> torch.Tensor:
        method, total = METHODS[self._request.how.method], self._num_steps(job)
        keeper = self._keeper
        held = Held(self.clip, self._shares().clips)
        latents = job.noise_1CFHW if job.begun_1CFHW is None else job.begun_1CFHW
        before, begin = replace(self._comm.tally), time.perf_counter()
        for done, z_1CFHW in enumerate(method.denoise(job), start=job.first_step + 1):
            latents = z_1CFHW
            self.measures.seconds_per_step.append(time.perf_counter() - begin)
            self.measures.exchanged_per_step.append(self._comm.tally.since(before))
            self._observer("step", step=done, of=total, frames=self.plan.num_latent_frames)
            if keeper is not None:
                keeper.after_step(done, total, z_1CFHW, job.scheduler, held)
            before, begin = replace(self._comm.tally), time.perf_counter()
        return latents

    def _num_steps(self, job: DenoiseJob) -> int:
        """Of the method in all."""
        count = METHODS[self._request.how.method].num_steps
        return count(job.how, job.num_frames, job.num_inference_steps)

    def job(self) -> DenoiseJob:
        """What a method is given: text, noise and a fresh scheduler for this rank's clip."""
        request, scopes = self._request, self._request.scopes
        steps = chosen(request.video.num_inference_steps)
        scheduler = self._adapter.make_scheduler()
        check_scheduler(request, scheduler)
        eta = chosen(request.video.eta)
        start(scheduler, steps, self._adapter.device)
        schedule = BiasSchedule()
        if "local_bias" in request.how.reads:
            schedule = BiasSchedule(
                chosen(scopes.local_bias), chosen(scopes.global_bias), chosen(scopes.bias_switch)
            )
        materials = Materials(
            request, self._adapter, self._comm, self._mesh, self.plan.num_latent_frames
        )
        job = DenoiseJob(
            self._adapter,
            self._clips,
            self._branches,
            self.plan,
            schedule,
            scheduler,
            self._guidance(),
            eta,
            materials.texts_of(self.clip.frames),
            materials.noise_of(self.clip.frames),
            request.video.seed,
            request.how,
            materials.texts_of,
            materials.noise_of,
        )
        job = replace(job, scheduler=METHODS[request.how.method].scheduler(job))
        return job if self._keeper is None else self._gone_on_with(job, self._keeper)

    def _gone_on_with(self, job: DenoiseJob, keeper: Keeper) -> DenoiseJob:
        """The job from the newest checkpoint on, if there is one."""
        begin = keeper.find(
            job.scheduler,
            self._num_steps(job),
            self.clip,
            self.plan.num_latent_frames,
            self._adapter.device,
        )
        if begin is None:
            return job
        self.measures.first_step = begin.step
        return replace(
            job,
            scheduler=begin.scheduler,
            first_step=begin.step,
            begun_1CFHW=begin.z_FCHW.transpose(0, 1)[None],
        )

    def _guidance(self) -> GuidanceSchedule:
        video = self._request.video
        return GuidanceSchedule(
            chosen(video.guidance_scale),
            video.guidance_scale_2,
            self._adapter.facts.expert_boundary,
        )

    def deliver_latents(self, z_1CFHW: torch.Tensor, writer: LatentsWriter | None) -> None:
        """Stream all latents to rank 0's writer, in slices and in timeline order."""
        z_CFHW = self._share(z_1CFHW)
        channels, _, height, width = z_CFHW.shape
        slices_FCHW = z_CFHW.transpose(0, 1).split(LATENTS_SLICE_FRAMES)
        shapes = [
            [(n, channels, height, width) for n in _slice_sizes(len(clip), LATENTS_SLICE_FRAMES)]
            for clip in self._shares().clips
        ]
        sink = writer.write if writer is not None else _nowhere
        pull_in_order(
            self._comm, shapes, lambda i: slices_FCHW[i].float(), sink, dtype=torch.float32
        )

    def deliver_frames(self, z_1CFHW: torch.Tensor, sink: Sink) -> None:
        """Decode on all ranks at once; hand every picture to rank 0's sink, in order.

        In a round every rank decodes one chunk of latent frames, and rank 0 takes the pictures
        in timeline order: no rank is ever ahead by more than a chunk.
        """
        facts, comm = self._adapter.facts, self._comm
        chunks = Chunks(self.plan.num_latent_frames, facts.decode_frames)
        stream, sink, keeper = ChunkStream(comm, chunks), self._timed(sink), self._keeper
        first, keep = 0, sink
        tiled = self._request.video.vae_tiling
        shares, own_CFHW = self._shares(), self._share(z_1CFHW)
        with (
            self.measures.phase("decode", self._observer),
            self._adapter.decoding(stream, tiled=tiled) as decode,
        ):
            if keeper is not None:
                first, carried = keeper.find_decoded(self._size_HW)
                stream.go_on(first, carried)
                keeper.hand_over(sink)
                keep = keeper.keeping(sink)
            for round_ in chunks.rounds(comm.size, first):
                spans = [None if index is None else chunks[index] for index in round_]
                z_CFHW = fetch(comm, shares, spans, own_CFHW, dim=1)
                index = round_[comm.rank]
                picture = None
                if index is not None and z_CFHW is not None:
                    stream.begin(index)
                    picture = decode(z_CFHW)
                self._collect(spans, picture, keep)
                if keeper is not None:
                    keeper.after_round(first + comm.size, stream.carried)
                    first += comm.size

    def _collect(
        self, spans: Sequence[Clip | None], picture_PHWC: torch.Tensor | None, sink: Sink
    ) -> None:
        """Hand one round's pictures to rank 0's sink."""
        facts, comm = self._adapter.facts, self._comm
        shapes: list[list[tuple[int, ...]]] = [
            [(len(facts.pixel_frames(span)), *self._size_HW, 3)] if span else [] for span in spans
        ]

        def own(_: int) -> torch.Tensor:
            assert picture_PHWC is not None
            return picture_PHWC

        pull_in_order(comm, shapes, own, sink, dtype=torch.uint8)

    @property
    def _size_HW(self) -> tuple[int, int]:
        return chosen(self._request.video.height), chosen(self._request.video.width)

    def _timed(self, sink: Sink) -> Sink:
        total = chosen(self._request.video.num_frames)
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
