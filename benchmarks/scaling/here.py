"""This machine: what each part of the exchange should cost, beside what it does cost.

Two gloo processes over loopback, the embedded model. The prediction knows the calibration alone
(`calibrate.py`), never a run with an exchange; the measurement is that of `benchmarks.speed`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scaling.model import Link, Subject, fit_link, straggling_of_pair, traffic

PARTS = {
    "conv": ("conv",),
    "norm": ("norm",),
    "attention": ("attention",),
    "full": ("conv", "norm", "attention"),
}
RANKS = 2
SPEED = (Path("out/bench/speed.json"), Path("benchmarks/results/speed.json"))


@dataclass(frozen=True)
class Cost:
    """Seconds of one step that a part adds to clips without an exchange.

    waiting  for the other rank to come to the same place
    wire     rounds and bytes
    joining  received frames to one's own
    halo     frames computed and cut off
    """

    waiting: float
    wire: float
    joining: float
    halo: float

    @property
    def total(self) -> float:
        return self.waiting + self.wire + self.joining + self.halo


def links_of(calibration: dict[str, Any]) -> tuple[Link, Link]:
    """`post` and `gather`, fitted over both ranks."""

    def fit(name: str) -> Link:
        points = [tuple(point) for rank in calibration["ranks"] for point in rank[name]]
        sizes, seconds = zip(*points, strict=True)
        return fit_link(f"gloo over loopback, {name}", sizes, seconds)

    return fit("post"), fit("gather")


def fit_errors(link: Link, calibration: dict[str, Any], name: str) -> float:
    """The largest relative error of a fitted link over what was measured."""
    errors = (
        abs(link.seconds(1, size) / seconds - 1)
        for rank in calibration["ranks"]
        for size, seconds in rank[name]
    )
    return float(max(errors))


def step_seconds(calibration: dict[str, Any]) -> float:
    """One step of two clips without an exchange: the median over repeats of the slower rank."""
    slower = [max(step["seconds"] for step in pair) for pair in _pairs(calibration)]
    return float(statistics.median(slower))


def straggling(calibration: dict[str, Any]) -> float:
    """The standard deviation of ranks' step times, as a share."""
    first, second = ([s["seconds"] for s in rank["steps"]] for rank in calibration["ranks"])
    return straggling_of_pair(first, second)


def _pairs(calibration: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(zip(*(rank["steps"] for rank in calibration["ranks"]), strict=True))


def waiting(pair: Sequence[dict[str, Any]], parts: Sequence[str]) -> float:
    """Seconds that the slower rank would lose if both waited for each other at these places.

    pair  one step on both ranks: when it came to each place, and when it ended
    """
    clock, done = 0.0, [0.0] * len(pair)
    for places in zip(*(step["events"] for step in pair), strict=True):
        if places[0][0] in parts:
            clock += max(moment - before for (_, moment), before in zip(places, done, strict=True))
            done = [moment for _, moment in places]
    clock += max(step["seconds"] - before for step, before in zip(pair, done, strict=True))
    return float(clock - max(step["seconds"] for step in pair))


def predicted(subject: Subject, calibration: dict[str, Any]) -> dict[str, Cost]:
    """The cost of each part alone, and of all."""
    post, gather = links_of(calibration)
    frames = calibration["num_frames"] // RANKS
    cat_s = statistics.mean(rank["cat_seconds_per_byte"] for rank in calibration["ranks"])
    batch_bytes = subject.branches * subject.value_bytes
    footprint, moved = subject.footprint, traffic(RANKS, frames, subject.scopes).received
    wire = {
        "conv": post.seconds(subject.conv, footprint.conv_values * batch_bytes),
        "norm": gather.seconds(
            subject.conv + subject.norm, footprint.moment_values * subject.branches * 4
        ),
        "attention": post.seconds(
            subject.attention, moved * footprint.attention_values * batch_bytes
        ),
    }
    joining = {
        "conv": cat_s * (frames + 1) * footprint.conv_values * batch_bytes,
        "norm": 0.0,
        "attention": cat_s * (frames + moved) * footprint.attention_values * batch_bytes,
    }
    halo_s = subject.frame_s * subject.work.conv / subject.work.total
    return {
        name: Cost(
            statistics.median(waiting(pair, parts) for pair in _pairs(calibration)),
            sum(wire[part] for part in parts),
            sum(joining[part] for part in parts),
            halo_s * ("conv" in parts),
        )
        for name, parts in PARTS.items()
    }


@dataclass(frozen=True)
class Measured:
    """Cost over `independent` by part, as shares; the spread between ranks, if it was kept."""

    source: str
    shares: dict[str, float]
    straggling: float | None


def measured() -> Measured | None:
    """The newest JSON of `benchmarks.speed` at hand."""
    for file in SPEED:
        found = json.loads(file.read_text()) if file.exists() else {}
        costs = found.get("over_independent", {})
        if set(PARTS) <= set(costs):
            shares = {name: costs[name]["median"] - 1 for name in PARTS}
            return Measured(str(file), shares, _spread(found))
    return None


def _spread(found: dict[str, Any]) -> float | None:
    """Of two ranks' independent clips, where each repeat was kept."""
    runs = [rank.get("seconds", {}).get("independent", []) for rank in found.get("ranks", [])]
    if len(runs) != RANKS or not runs[0] or len(runs[0]) != len(runs[1]):
        return None
    return straggling_of_pair(*runs)
