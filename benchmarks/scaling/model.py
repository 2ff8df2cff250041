"""How long one step takes on many ranks: formulas alone, without a model or a measurement.

A step of one rank that holds F latent frames is

    F * t                     compute, all branches that this rank has
  + 2 * t * conv share        halo frames that convolutions compute and cut off
  + conv, norm, attention     rounds * latency + bytes / bandwidth of each part
  - what is hidden            of attention alone: moments cannot be
  + stragglers                waiting for the slowest rank

The slowest rank sets the pace, so that frames that travel are those of the rank with the most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from video_infinity.adapters.footprint import Footprint
from video_infinity.plan import Scopes

MOMENT_BYTES = 4
MESSAGES_AT_ONCE = 8
"""Peers that a rank serves at once; assumed, for NCCL's grouped sends on as many channels."""


@dataclass(frozen=True)
class Link:
    """One way between two ranks: seconds before the first byte, bytes a second."""

    name: str
    latency_s: float
    bytes_per_s: float

    def seconds(self, rounds: float, num_bytes: float) -> float:
        return rounds * self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one latent frame and branch.

    conv     of the temporal convolutions
    queries  projections of the temporal attention's queries
    local    scores and sums of the temporal attention over the local scope
    """

    total: float
    conv: float
    queries: float
    local: float


@dataclass(frozen=True)
class Subject:
    """A model on a device.

    frame_s                     seconds of one latent frame and step, both branches
    latent_values               of one frame: what the ranks of the cfg axis swap
    attention, conv, norm       rounds in one step
    """

    name: str
    device: str
    frame_s: float
    scopes: Scopes
    footprint: Footprint
    work: Work
    latent_values: int
    attention: int
    conv: int
    norm: int
    value_bytes: int = 2
    branches: int = 2


@dataclass(frozen=True)
class Layout:
    """How ranks and their messages are laid out.

    cfg        ranks that share the branches of a clip's guidance: 1 or 2
    passed_on  whether global frames are passed on from rank to rank; else their owner sends them
               to every other rank, as the engine does
    hidden     what attention's bytes hide behind: "nothing", "queries" (as the engine does), or
               "own keys": queries, and their scores over the clip's own frames
    straggling standard deviation of ranks' step times, as a share
    """

    cfg: int = 1
    passed_on: bool = False
    hidden: str = "queries"
    straggling: float = 0.0


@dataclass(frozen=True)
class Step:
    """Seconds of one step, by part."""

    compute: float
    halo_compute: float
    attention: float
    conv: float
    norm: float
    guidance: float
    hidden: float
    stragglers: float

    @property
    def total(self) -> float:
        return (
            self.compute
            + self.halo_compute
            + self.attention
            + self.conv
            + self.norm
            + self.guidance
            - self.hidden
            + self.stragglers
        )


def fit_link(name: str, num_bytes: Sequence[float], seconds: Sequence[float]) -> Link:
    """The alpha and beta of seconds = alpha + bytes * beta, by least squares of relative errors.

    Relative, because messages span five orders of magnitude: absolute errors would leave alpha to
    the noise of the largest.
    """
    took = np.asarray(seconds, dtype=float)
    columns = np.stack((1 / took, np.asarray(num_bytes, dtype=float) / took), axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(columns, np.ones(len(took)), rcond=None)
    return Link(name, float(alpha), float(1 / beta))


@lru_cache(maxsize=4096)
def expected_maximum(ranks: int) -> float:
    """By how many standard deviations the slowest of N independent normal ranks is late.

    E[max] = integral of x d(Phi(x)^N), summed on a grid; 0 for one rank, 0.564 for two.
    """
    x = np.linspace(-10, 10, 20001)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x]) ** ranks
    return float(((x[1:] + x[:-1]) / 2 * np.diff(below)).sum())


def straggling_of_pair(first_s: Sequence[float], second_s: Sequence[float]) -> float:
    """The standard deviation of step times, as a share, from pairs of ranks that ran side by side.

    The expected difference of two normal draws is 2 / sqrt(pi) standard deviations.
    """
    apart = np.abs(np.subtract(first_s, second_s)).mean()
    return float(apart * math.sqrt(math.pi) / 2 / np.mean([*first_s, *second_s]))


@dataclass(frozen=True)
class Traffic:
    """Latent frames and messages of the busiest rank in one attention layer."""

    received: int
    sent: int
    messages: int


@lru_cache(maxsize=4096)
def traffic(ranks: int, frames: int, scopes: Scopes) -> Traffic:
    """What the busiest rank of N equal clips receives and sends, when owners send to everybody.

    Equals the plan's transfers without listing them: N ranks have N^2 pairs.
    """
    length, h = ranks * frames, scopes.local_frames
    count = min(scopes.global_frames, length)
    context = {k * length // count for k in range(count)}

    def readers(frame: int) -> int:
        if frame in context:
            return ranks - 1
        first, last = max(0, frame - h) // frames, min(length - 1, frame + h) // frames
        return last - first

    def received(rank: int) -> int:
        first, stop = max(0, rank * frames - h), min(length, (rank + 1) * frames + h)
        return stop - first - frames + sum(not first <= frame < stop for frame in context)

    owners = {frame // frames for frame in context}
    sent = max(
        sum(readers(frame) for frame in range(rank * frames, (rank + 1) * frames))
        for rank in owners | {0, ranks // 2}
    )
    peers = min(ranks - 1, 2 * -(-h // frames))
    most = max(peers, ranks - 1 if context else 0)
    return Traffic(max(received(rank) for rank in range(ranks)), sent, most)


def step_time(subject: Subject, link: Link, ranks: int, frames: int, layout: Layout) -> Step:
    """One step of the slowest of `ranks` ranks, of which each clip's hold `frames` frames."""
    clips = ranks // layout.cfg
    branches = subject.branches // layout.cfg
    frame_s = subject.frame_s / layout.cfg
    batch_bytes = branches * subject.value_bytes
    hops = math.ceil(math.log2(clips)) if clips > 1 else 0
    attention = _attention_seconds(subject, link, clips, frames, layout, batch_bytes)
    halo_frames = min(2, clips - 1)
    conv_bytes = halo_frames * subject.footprint.conv_values * batch_bytes
    moment_bytes = (clips - 1) * subject.footprint.moment_values * branches * MOMENT_BYTES
    prediction_bytes = (layout.cfg - 1) * frames * subject.latent_values * subject.value_bytes
    compute = frames * frame_s
    return Step(
        compute=compute,
        halo_compute=halo_frames * frame_s * subject.work.conv / subject.work.total,
        attention=attention,
        conv=link.seconds(subject.conv * (clips > 1), conv_bytes),
        norm=link.seconds((subject.conv + subject.norm) * hops, moment_bytes),
        guidance=link.seconds(layout.cfg - 1, prediction_bytes),
        hidden=min(attention, hideable(subject, frames * frame_s, frames, layout.hidden)),
        stragglers=compute * layout.straggling * expected_maximum(ranks),
    )


def _attention_seconds(
    subject: Subject, link: Link, clips: int, frames: int, layout: Layout, batch_bytes: int
) -> float:
    if clips == 1:
        return 0.0
    moved = traffic(clips, frames, subject.scopes)
    frame_bytes = subject.footprint.attention_values * batch_bytes
    if layout.passed_on:
        rounds = 1 + math.ceil(math.log2(clips))
        return link.seconds(subject.attention * rounds, moved.received * frame_bytes)
    rounds = math.ceil(moved.messages / MESSAGES_AT_ONCE)
    return link.seconds(subject.attention * rounds, max(moved.received, moved.sent) * frame_bytes)


def hideable(subject: Subject, compute_s: float, frames: int, hidden: str) -> float:
    """Seconds of compute that need no key of another rank.

    "own keys" counts the scores of a clip's queries over the local keys of the clip itself; it
    wants the rest merged in by log-sum-exp, since every query reads the global context too.
    """
    assert hidden in ("nothing", "queries", "own keys"), hidden
    if hidden == "nothing":
        return 0.0
    work = subject.work.queries
    if hidden == "own keys":
        h = subject.scopes.local_frames
        at_hand = sum(max(0, frames - abs(offset)) for offset in range(-h, h + 1))
        work += subject.work.local * at_hand / (frames * (2 * h + 1))
    return compute_s * work / subject.work.total


def efficiency(subject: Subject, link: Link, ranks: int, frames: int, layout: Layout) -> float:
    """Ideal time, that of N ranks without any exchange, over the model's."""
    step = step_time(subject, link, ranks, frames, layout)
    return step.compute / step.total


def smallest_clip(
    subject: Subject, link: Link, ranks: int, layout: Layout, bar: float, most: int = 2048
) -> int | None:
    """Fewest latent frames of a clip with which the efficiency reaches the bar; None beyond `most`.

    More frames never lower it: what travels does not grow with the clip.
    """
    if efficiency(subject, link, ranks, most, layout) < bar:
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        reached = efficiency(subject, link, ranks, middle, layout) >= bar
        low, high = (low, middle) if reached else (middle, high)
    return high


def with_sizes(subject: Subject, local_frames: int, global_frames: int) -> Subject:
    """The same with another local scope and global context."""
    scopes = replace(subject.scopes, local_frames=local_frames, global_frames=global_frames)
    return replace(subject, scopes=scopes)


def straggling_of_rows(seconds: dict[int, float]) -> float:
    """The standard deviation of step times, as a share, from runs without exchange on few and many.

    seconds  of the slowest rank, by the number of ranks: mean * (1 + share * expected maximum)
    """
    (few, few_s), (many, many_s) = sorted(seconds.items())
    ratio = many_s / few_s
    return (ratio - 1) / (expected_maximum(many) - ratio * expected_maximum(few))
