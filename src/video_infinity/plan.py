"""The plan: which rank holds which frames, and which frames it needs from whom.

Pure: a function of numbers of frames and ranks, computed alike on every rank, without
torch.distributed. Frames here are latent frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from video_infinity.errors import PlanError
from video_infinity.windows import Windows

GLOBAL_RULES = ("even", "rotating")


@dataclass(frozen=True)
class Clip:
    """A contiguous, non-empty span [start, stop) of the timeline."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise PlanError(f"a clip needs 0 <= start < stop, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame < self.stop

    @property
    def frames(self) -> range:
        return range(self.start, self.stop)


Span = Clip | tuple[int, ...]
"""Frames of the timeline: a clip, or any of them, rising."""


def frames_of(span: Span) -> Sequence[int]:
    """The frames, rising."""
    return span.frames if isinstance(span, Clip) else span


@dataclass(frozen=True)
class Transfer:
    """Frames that travel in one message from rank `source` to rank `target`.

    phase   1 global context and frames from beyond the next clip; 2 between an odd rank and
            the next one; 3 between an even rank and the next one
    """

    source: int
    target: int
    frames: tuple[int, ...]
    phase: int


@dataclass(frozen=True)
class Scopes:
    """Who may look at whom in dual-scope attention.

    local_frames    h: frame i sees every j with |i - j| <= h
    global_frames   |G|: frames, chosen over the whole timeline, that every frame sees
    global_rule     "even": the same frames at every step; "rotating": one place on per step
    keeps_first     whether frame 0 stays in G whatever the step: it means something of its own
    windows         in the place of all that: frame i sees the frames of every window that holds it
    """

    local_frames: int
    global_frames: int
    global_rule: str = "even"
    keeps_first: bool = False
    windows: Windows | None = None

    def __post_init__(self) -> None:
        assert self.global_rule in GLOBAL_RULES, self.global_rule
        for name in ("local_frames", "global_frames"):
            if getattr(self, name) < 0:
                raise PlanError(f"{name}={getattr(self, name)} must not be negative")


@dataclass(frozen=True)
class Plan:
    """How one timeline is shared out, at one step of the denoise.

    clips   one per rank, in timeline order, without gaps, starting at frame 0
    scopes  of every dual-scope attention layer
    shift   how many places a rotating global context has moved
    Raises PlanError if the clips leave gaps or overlap.
    """

    clips: tuple[Clip, ...]
    scopes: Scopes
    shift: int = 0

    def __post_init__(self) -> None:
        expected = 0
        for clip in self.clips:
            if clip.start != expected:
                raise PlanError(f"clips must touch: expected a clip at {expected}, got {clip}")
            expected = clip.stop

    @property
    def num_latent_frames(self) -> int:
        return self.clips[-1].stop

    @property
    def num_ranks(self) -> int:
        return len(self.clips)

    @property
    def local_frames(self) -> int:
        """h, cut off at L - 1: more cannot be seen."""
        return min(self.scopes.local_frames, self.num_latent_frames - 1)

    @cached_property
    def global_context(self) -> tuple[int, ...]:
        """G, rising: the frames floor(k * L / |G|), moved on by `shift` places, round and round.

        A first frame that is kept stays where it is, and the others move round without it.
        """
        length, kept = self.num_latent_frames, int(self.scopes.keeps_first)
        count = min(self.scopes.global_frames, length)
        even = [k * length // count for k in range(count)]
        moved = [kept + (frame - kept + self.shift) % (length - kept) for frame in even[kept:]]
        return tuple(even[:kept] + sorted(moved))

    def at_step(self, step: int) -> Plan:
        """The plan of one step; with an even global context it is the same at every step."""
        return self if self.scopes.global_rule == "even" else replace(self, shift=step)

    def owner(self, frame: int) -> int:
        """The rank that holds a frame."""
        for rank, clip in enumerate(self.clips):
            if frame in clip:
                return rank
        raise PlanError(f"frame {frame} is not in the timeline of {self.num_latent_frames}")

    def reach(self, rank: int, halo_frames: int) -> Clip:
        """The rank's clip widened by a halo on both sides, cut off at the video's ends."""
        clip = self.clips[rank]
        return Clip(
            max(0, clip.start - halo_frames),
            min(self.num_latent_frames, clip.stop + halo_frames),
        )

    def transfers(self, spans: Sequence[Span | None]) -> tuple[Transfer, ...]:
        """What brings every rank the frames of its span, wherever they are; None: no frames.

        Spans of ranks that have no clip may come after the others.
        """
        assert len(spans) >= self.num_ranks, "a span for every rank"
        wanted = [
            {frame for frame in frames_of(span) if clip is None or frame not in clip}
            if span
            else set()
            for span, clip in itertools.zip_longest(spans, self.clips)
        ]
        return _deliver(self.clips, wanted)

    def attention_transfers(self) -> tuple[Transfer, ...]:
        """What one attention layer sends: local halo and global context, each frame once.

        With windows, what of those over its clip a rank has not.
        """
        if self.scopes.windows is not None:
            return _window_transfers(self.clips, self.scopes.windows)
        return _transfers(self.clips, self.local_frames, self.global_context)

    def halo_transfers(self, halo_frames: int) -> tuple[Transfer, ...]:
        """What a layer with a halo alone (a temporal convolution) sends."""
        return _transfers(self.clips, halo_frames, ())


def split_timeline(num_latent_frames: int, num_ranks: int) -> tuple[Clip, ...]:
    """Cut the timeline into one clip per rank; lengths differ by one at most.

    Raises PlanError if a rank would get no frame.
    """
    if num_latent_frames < 1 or num_ranks < 1:
        raise PlanError(
            f"num_latent_frames={num_latent_frames} on {num_ranks} ranks: both must be at least 1"
        )
    if num_latent_frames < num_ranks:
        raise PlanError(
            f"{num_latent_frames} latent frames cannot fill {num_ranks} ranks: each needs at "
            f"least one; use --nproc-per-node {num_latent_frames} or more frames"
        )
    bounds = [rank * num_latent_frames // num_ranks for rank in range(num_ranks + 1)]
    return tuple(Clip(a, b) for a, b in itertools.pairwise(bounds))


def split_spans(spans: Sequence[range], num_ranks: int) -> tuple[Clip, ...]:
    """Spans of the timeline in turn to the ranks, whole ones where there are enough."""
    if len(spans) < num_ranks:
        return split_timeline(spans[-1].stop, num_ranks)
    bounds = [rank * len(spans) // num_ranks for rank in range(num_ranks + 1)]
    return tuple(Clip(spans[a].start, spans[b - 1].stop) for a, b in itertools.pairwise(bounds))


def clips_of_lengths(lengths: Sequence[int]) -> tuple[Clip, ...]:
    """Clips of given lengths, one after the other. Raises PlanError for an empty one."""
    clips, start = [], 0
    for length in lengths:
        if length < 1:
            raise PlanError(f"clip lengths {list(lengths)}: each must be at least 1")
        clips.append(Clip(start, start + length))
        start += length
    return tuple(clips)


def contributions(held: Sequence[range], clips: Sequence[Clip]) -> tuple[Transfer, ...]:
    """What brings every rank all that other ranks hold of the frames of its clip.

    held  per rank, what it has a part in: spans of different ranks may overlap
    """
    transfers = []
    for target, clip in enumerate(clips):
        for source, span in enumerate(held):
            frames = range(max(span.start, clip.start), min(span.stop, clip.stop))
            if frames and source != target:
                transfers.append(Transfer(source, target, tuple(frames), _phase(source, target)))
    return tuple(sorted(transfers, key=lambda t: (t.phase, t.source, t.target)))


@lru_cache(maxsize=64)
def _transfers(
    clips: tuple[Clip, ...], halo_frames: int, global_context: tuple[int, ...]
) -> tuple[Transfer, ...]:
    length = clips[-1].stop
    wanted = []
    for clip in clips:
        before = range(max(0, clip.start - halo_frames), clip.start)
        after = range(clip.stop, min(length, clip.stop + halo_frames))
        far = (frame for frame in global_context if frame not in clip)
        wanted.append({*before, *after, *far})
    return _deliver(clips, wanted)


@lru_cache(maxsize=64)
def _window_transfers(clips: tuple[Clip, ...], windows: Windows) -> tuple[Transfer, ...]:
    length = clips[-1].stop
    wanted = [
        {f for w in windows.over(clip.frames, length) for f in w if f not in clip} for clip in clips
    ]
    return _deliver(clips, wanted)


def _deliver(clips: tuple[Clip, ...], wanted: Sequence[set[int]]) -> tuple[Transfer, ...]:
    transfers = []
    for target, frames_wanted in enumerate(wanted):
        for source, other in enumerate(clips):
            frames = tuple(sorted(frame for frame in frames_wanted if frame in other))
            if frames:
                transfers.append(Transfer(source, target, frames, _phase(source, target)))
    return tuple(sorted(transfers, key=lambda t: (t.phase, t.source, t.target)))


def _phase(source: int, target: int) -> int:
    if abs(source - target) != 1:
        return 1
    return 2 if min(source, target) % 2 == 1 else 3
