"""The tables of docs/scaling.md, as rows of words, and the same numbers for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.scaling import here, paper, published
from benchmarks.scaling.model import (
    Layout,
    Link,
    Subject,
    efficiency,
    smallest_clip,
    step_time,
    traffic,
    with_sizes,
)
from benchmarks.scaling.nodes import Machines, step_time_on

RANKS = (8, 32, 128, 512, 1024)
LINKS = (published.NVLINK, published.PCIE, published.ETHERNET)
AS_BUILT = Layout(straggling=published.STRAGGLING)
PASSED_ON = replace(AS_BUILT, passed_on=True)
LAYOUTS = {
    "today": AS_BUILT,
    "today, cfg=2": replace(AS_BUILT, cfg=2),
    "proposed": replace(PASSED_ON, cfg=2, hidden="own keys"),
}
"""What the engine does, what its user can choose, and what would have to be built."""
LADDER = {
    "today": AS_BUILT,
    "global frames passed on": PASSED_ON,
    "and cfg=2": replace(PASSED_ON, cfg=2),
    "and own keys first": LAYOUTS["proposed"],
}
BAR = 0.8


@dataclass
class Table:
    """A table of the page. numbers: what its plot needs, one dict a row."""

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[dict[str, Any]] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def links_here(calibration: dict[str, Any]) -> Table:
    """What was fitted on this machine."""
    rows, numbers = [], []
    for name, link in zip(("post", "gather"), here.links_of(calibration), strict=True):
        error = here.fit_errors(link, calibration, name)
        rows.append(
            [
                f"`{name}`",
                f"{1e6 * link.latency_s:.0f} µs",
                f"{link.bytes_per_s / 1e9:.2f} GB/s",
                percent(error),
            ]
        )
        numbers.append({"call": name, "alpha_s": link.latency_s, "bytes_per_s": link.bytes_per_s})
    return Table("links here", ("call", "alpha", "1 / beta", "largest error"), rows, numbers)


def compute_here(calibration: dict[str, Any]) -> Table:
    """The rest of the calibration."""
    frames = calibration["num_frames"] // here.RANKS
    cat = [1 / rank["cat_seconds_per_byte"] for rank in calibration["ranks"]]
    rows = [
        ["one frame and step", f"{1e3 * here.step_seconds(calibration) / frames:.1f} ms"],
        ["joining frames", " and ".join(f"{bytes_s / 1e9:.1f} GB/s" for bytes_s in cat)],
        ["deviation of ranks' steps", percent(here.straggling(calibration), 1)],
    ]
    return Table("compute here", ("of two ranks side by side", ""), rows)


def costs_here(subject: Subject, calibration: dict[str, Any]) -> Table:
    """Predicted and measured cost of each part, over clips without an exchange."""
    base, found = here.step_seconds(calibration), here.measured()
    rows, numbers = [], []
    for name, cost in here.predicted(subject, calibration).items():
        share = found.shares[name] if found else None
        parts = (cost.waiting, cost.wire, cost.joining, cost.halo)
        rows.append(
            [
                name,
                *(percent(part / base, 1) for part in parts),
                percent(cost.total / base, 1),
                "not measured" if share is None else percent(share, 1),
            ]
        )
        numbers.append({"part": name, "predicted": cost.total / base, "measured": share})
    head = ("part", "waiting", "wire", "joining", "halo frames", "predicted", "measured")
    return Table("costs here", head, rows, numbers)


def paper_costs(subject: Subject) -> Table:
    """The paper's table by the model, with what is left over; then this engine there."""
    link = published.PCIE
    call_s = paper.call_seconds(subject, link, *paper.FIT)
    names = (*paper.PARTS, "full")
    rows, numbers = [], []

    def add(who: str, ranks: int, shares: dict[str, float], sign: bool = False) -> None:
        words = [f"{100 * shares[n]:+.1f}" if sign else percent(shares[n], 1) for n in names]
        rows.append([f"{who}, {ranks} GPUs", *words])
        numbers.append({"who": who, "ranks": ranks, **shares})

    for ranks, told in published.PAPER_COST.items():
        found = paper.shares(subject, ranks, link, call_s)
        add("the paper", ranks, told)
        add("its scheme by the model", ranks, found)
        add("left over, points", ranks, {n: told[n] - found[n] for n in names}, sign=True)
    for ranks in published.PAPER_COST:
        add("this engine by the model", ranks, paper.ours(subject, ranks, link, call_s))
    return Table("paper", ("", *names), rows, numbers)


def paper_calls(subject: Subject) -> Table:
    """The fitted constant, had it been fitted on another cell."""
    rows = [
        [
            f"{ranks} GPUs",
            *(
                f"{1e3 * paper.call_seconds(subject, published.PCIE, part, ranks):.1f} ms"
                for part in paper.PARTS
            ),
        ]
        for ranks in published.PAPER_COST
    ]
    return Table("paper calls", ("", *paper.PARTS), rows)


def overlap(subjects: Sequence[Subject], frames: dict[str, int], ranks: int = 8) -> Table:
    """What of the exchange can be hidden, and how much of it is."""
    rows = []
    for subject in subjects:
        for link in LINKS:
            clip = frames[subject.name]
            steps = {
                hidden: step_time(subject, link, ranks, clip, replace(AS_BUILT, hidden=hidden))
                for hidden in ("nothing", "queries", "own keys")
            }
            plain = steps["nothing"]
            words = [subject.name, link.name]
            words += [f"{1e3 * s:.0f} ms" for s in (plain.compute, plain.attention)]
            words.append(f"{1e3 * (plain.conv + plain.norm):.0f} ms")
            for step in steps.values():
                words.append(f"{percent(step.hidden / step.attention)}")
                words.append(percent(step.compute / step.total))
            rows.append([*words[:5], *words[6:]])
    head = (
        *("model", "link", "compute", "keys and values", "halos and moments", "efficiency"),
        *("hidden behind queries", "efficiency", "behind own keys too", "efficiency"),
    )
    return Table("overlap", head, rows)


def ladder(subjects: Sequence[Subject], frames: dict[str, int], ranks: int = 128) -> Table:
    """What each remedy brings on top of the ones before it."""
    rows = [
        [
            subject.name,
            link.name,
            *(
                percent(efficiency(subject, link, ranks, layout.cfg * clip, layout))
                for layout in LADDER.values()
            ),
        ]
        for subject in subjects
        for link, clip in ((link, frames[subject.name]) for link in LINKS)
    ]
    return Table("ladder", ("model", "link", *LADDER), rows)


def _scaling(
    name: str, subjects: Sequence[Subject], clip_of: Callable[[Subject, int, int], int]
) -> Table:
    rows, numbers = [], []
    for subject in subjects:
        for link in LINKS:
            for words, layout in LAYOUTS.items():
                found = [
                    efficiency(subject, link, n, clip_of(subject, n, layout.cfg), layout)
                    for n in RANKS
                ]
                rows.append([subject.name, link.name, words, *map(percent, found)])
                numbers.append(
                    {
                        "model": subject.name,
                        "link": link.name,
                        "layout": words,
                        "ranks": list(RANKS),
                        "efficiency": found,
                    }
                )
    return Table(name, ("model", "link", "how", *map(str, RANKS)), rows, numbers)


def weak(subjects: Sequence[Subject], frames: dict[str, int]) -> Table:
    """A rank keeps its frames; with cfg=2 a clip has twice as many, and each rank half of them."""
    return _scaling("weak", subjects, lambda subject, _, cfg: cfg * frames[subject.name])


def strong(subjects: Sequence[Subject], totals: dict[str, int]) -> Table:
    """The video keeps its frames."""
    return _scaling("strong", subjects, lambda subject, n, cfg: cfg * totals[subject.name] // n)


def crossover(subjects: Sequence[Subject]) -> Table:
    """Fewest frames of a rank with which the efficiency reaches the bar."""
    rows, numbers = [], []
    for subject in subjects:
        for link in LINKS:
            for words, layout in LAYOUTS.items():
                found = [smallest_clip(subject, link, n, layout, BAR) for n in RANKS]
                per_rank = [None if clip is None else -(-clip // layout.cfg) for clip in found]
                rows.append(
                    [subject.name, link.name, words]
                    + ["none" if clip is None else str(clip) for clip in per_rank]
                )
                numbers.append(
                    {
                        "model": subject.name,
                        "link": link.name,
                        "layout": words,
                        "ranks": list(RANKS),
                        "frames": per_rank,
                    }
                )
    return Table("crossover", ("model", "link", "how", *map(str, RANKS)), rows, numbers)


def machines(subjects: Sequence[Subject], frames: dict[str, int]) -> Table:
    """Eight GPUs a machine on NVLink, one port of 100 Gb/s a machine."""
    cases = {
        "in order, as built": (True, AS_BUILT),
        "in order, passed on": (True, PASSED_ON),
        "round-robin, passed on": (False, PASSED_ON),
    }
    rows, numbers = [], []
    for subject in subjects:
        for words, (in_order, layout) in cases.items():
            placed = Machines(published.NVLINK, published.ETHERNET, 8, in_order)
            steps = [step_time_on(subject, placed, n, frames[subject.name], layout) for n in RANKS]
            found = [step.compute / step.total for step in steps]
            rows.append([subject.name, words, *map(percent, found)])
            numbers.append({"model": subject.name, "placing": words, "efficiency": found})
    return Table("machines", ("model", "ranks on machines", *map(str, RANKS)), rows, numbers)


def sizes(subjects: Sequence[Subject], frames: dict[str, int], link: Link, ranks: int) -> Table:
    """What a smaller local scope or global context saves."""
    rows = []
    for subject in subjects:
        h, g = subject.scopes.local_frames, subject.scopes.global_frames
        for local_frames, global_frames in ((h, g), (h // 2, g), (h, g // 2), (h // 2, g // 2)):
            smaller = with_sizes(subject, local_frames, global_frames)
            clip = frames[subject.name]
            received = traffic(ranks, clip, smaller.scopes).received
            found = efficiency(smaller, link, ranks, clip, PASSED_ON)
            rows.append(
                [subject.name, f"{local_frames}:{global_frames}", str(received), percent(found)]
            )
    head = ("model", "H:G", "frames received", f"efficiency, {ranks} ranks, {link.name}")
    return Table("sizes", head, rows)
