"""The model of step time (benchmarks/scaling): its formulas, without any denoiser or clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling.here import waiting
from benchmarks.scaling.model import (
    Layout,
    Link,
    Step,
    Subject,
    Work,
    efficiency,
    expected_maximum,
    fit_link,
    hideable,
    smallest_clip,
    step_time,
    straggling_of_pair,
    straggling_of_rows,
    traffic,
)
from benchmarks.scaling.nodes import Machines, crossing, step_time_on
from video_infinity.adapters.footprint import Footprint
from video_infinity.estimate import bytes_received
from video_infinity.plan import Plan, Scopes, Transfer, split_timeline

FAST, SLOW = Link("fast", 1e-6, 300e9), Link("slow", 50e-6, 10e9)
FREE = Link("free", 0.0, float("inf"))
SUBJECT = Subject(
    "made up",
    "nothing",
    frame_s=0.01,
    scopes=Scopes(8, 16),
    footprint=Footprint(1_000_000, 800_000, 512, 0, 0),
    work=Work(total=100.0, conv=10.0, queries=2.0, local=5.0),
    latent_values=4096,
    attention=16,
    conv=32,
    norm=8,
)
BATCH_BYTES = SUBJECT.branches * SUBJECT.value_bytes


def plan_of(ranks: int, frames: int, scopes: Scopes = SUBJECT.scopes) -> Plan:
    return Plan(split_timeline(ranks * frames, ranks), scopes)


def most(transfers: tuple[Transfer, ...], end: str, ranks: int) -> int:
    """Frames of the rank that has most of them at that end of the transfers."""
    return max(
        sum(len(t.frames) for t in transfers if getattr(t, end) == rank) for rank in range(ranks)
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("frames", [1, 3, 8, 24])
def test_traffic_is_that_of_the_plan(ranks: int, frames: int) -> None:
    transfers = plan_of(ranks, frames).attention_transfers()
    found = traffic(ranks, frames, SUBJECT.scopes)
    assert found.received == most(transfers, "target", ranks)
    assert found.sent == most(transfers, "source", ranks)


@pytest.mark.parametrize("ranks", [2, 8])
def test_bytes_are_those_that_plan_predicts(ranks: int) -> None:
    """On a link without latency, time times bandwidth is the estimate of the busiest receiver."""
    plan, wire = plan_of(ranks, 24), Link("wire", 0.0, 1.0)
    expected = max(
        bytes_received(plan, SUBJECT.footprint, rank, SUBJECT.branches, SUBJECT.value_bytes)
        for rank in range(ranks)
    )
    step = step_time(SUBJECT, wire, ranks, 24, Layout(passed_on=True))
    assert step.attention + step.conv + step.norm == pytest.approx(expected)


def test_the_bytes_of_another_halo_would_not_match() -> None:
    """Stands beside the test above: twice the local scope is not what the plan sends."""
    wider = replace(SUBJECT, scopes=Scopes(16, 16))
    wire, layout = Link("wire", 0.0, 1.0), Layout(passed_on=True)
    here, there = (step_time(s, wire, 8, 24, layout).attention for s in (SUBJECT, wider))
    assert there > 1.2 * here


def test_an_owner_of_global_frames_sends_them_to_all() -> None:
    few, many = (traffic(ranks, 24, SUBJECT.scopes) for ranks in (8, 256))
    assert many.received <= 2 * 8 + 16
    assert many.sent > 255 > few.sent
    sent = step_time(SUBJECT, SLOW, 256, 24, Layout()).attention
    passed_on = step_time(SUBJECT, SLOW, 256, 24, Layout(passed_on=True)).attention
    assert sent > 3 * passed_on


def test_fit_recovers_a_known_link() -> None:
    known = Link("known", 2e-4, 1.8e9)
    sizes = [64 * 4**k for k in range(10)]
    found = fit_link("found", sizes, [known.seconds(1, size) for size in sizes])
    assert found.latency_s == pytest.approx(known.latency_s)
    assert found.bytes_per_s == pytest.approx(known.bytes_per_s)


def test_fit_of_another_law_leaves_errors() -> None:
    sizes = [64 * 4**k for k in range(10)]
    seconds = [1e-5 * size**0.7 for size in sizes]
    found = fit_link("found", sizes, seconds)
    errors = [found.seconds(1, size) / s - 1 for size, s in zip(sizes, seconds, strict=True)]
    assert max(map(abs, errors)) > 0.3


def test_expected_maximum_of_normal_draws() -> None:
    """Known values: 0, 1/sqrt(pi), and 1.4236 of eight (Harter 1961)."""
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(0.5642, abs=1e-4)
    assert expected_maximum(8) == pytest.approx(1.4236, abs=1e-4)


def test_straggling_is_recovered_from_rows() -> None:
    share = 0.04
    rows = {n: 100 * (1 + share * expected_maximum(n)) for n in (2, 8)}
    assert straggling_of_rows(rows) == pytest.approx(share)
    assert straggling_of_pair([1.0, 1.0], [1.0, 1.0]) == 0


def test_without_a_wire_or_stragglers_only_halo_frames_are_lost() -> None:
    step = step_time(SUBJECT, FREE, 8, 24, Layout())
    assert step.total == pytest.approx(24 * 0.01 + 2 * 0.01 * 0.1)
    assert step_time(SUBJECT, SLOW, 1, 24, Layout(straggling=0.1)).total == pytest.approx(0.24)


def test_moments_are_never_hidden() -> None:
    """What is hidden is bounded by attention and by the compute that needs no neighbour."""
    for hidden in ("nothing", "queries", "own keys"):
        step = step_time(SUBJECT, SLOW, 8, 24, Layout(hidden=hidden))
        assert step.hidden <= step.attention
        assert step.total >= step.compute + step.halo_compute + step.conv + step.norm
    assert hideable(SUBJECT, 1.0, 24, "nothing") == 0
    assert hideable(SUBJECT, 1.0, 24, "queries") == pytest.approx(0.02)
    pairs = sum(abs(i - j) <= 8 for i in range(24) for j in range(24))
    assert hideable(SUBJECT, 1.0, 24, "own keys") == pytest.approx(0.02 + 0.05 * pairs / (24 * 17))
    assert hideable(SUBJECT, 1.0, 3, "own keys") == pytest.approx(0.02 + 0.05 * 9 / (3 * 17))


def test_the_cfg_axis_halves_the_bytes_for_the_same_work() -> None:
    wire = replace(SLOW, latency_s=0.0)
    one = step_time(SUBJECT, wire, 16, 24, Layout(passed_on=True))
    two = step_time(SUBJECT, wire, 16, 48, Layout(cfg=2, passed_on=True))
    assert two.compute == pytest.approx(one.compute)
    assert two.attention < 0.55 * one.attention
    assert two.guidance > 0 == one.guidance


def test_smallest_clip_reaches_the_bar_and_one_frame_less_does_not() -> None:
    layout = Layout(straggling=0.01)
    found = smallest_clip(SUBJECT, SLOW, 8, layout, bar=0.8)
    assert found is not None
    assert efficiency(SUBJECT, SLOW, 8, found, layout) >= 0.8
    assert efficiency(SUBJECT, SLOW, 8, found - 1, layout) < 0.8
    assert smallest_clip(SUBJECT, SLOW, 8, Layout(straggling=0.5), bar=0.8) is None


def test_neighbours_on_one_machine_spare_the_network() -> None:
    layout = Layout(passed_on=True)
    ordered = Machines(FAST, SLOW)
    scattered = replace(ordered, in_order=False)
    assert crossing(SUBJECT, ordered, 64, 24, layout).port == pytest.approx(16 + 14)
    assert crossing(SUBJECT, scattered, 64, 24, layout).port == pytest.approx(128 + 14)
    seconds: list[Step] = [step_time_on(SUBJECT, m, 64, 24, layout) for m in (ordered, scattered)]
    assert seconds[0].total < seconds[1].total
    assert step_time_on(SUBJECT, ordered, 8, 24, layout) == step_time(SUBJECT, FAST, 8, 24, layout)


def test_waiting_is_what_two_ranks_lose_by_meeting() -> None:
    """Each is slower once: meeting between costs the sum of both delays, less the longer total."""
    first = {"events": [("norm", 1.0), ("conv", 3.0)], "seconds": 4.0}
    second = {"events": [("norm", 2.0), ("conv", 3.0)], "seconds": 4.0}
    assert waiting((first, second), ("norm",)) == pytest.approx(1.0)
    assert waiting((first, second), ("conv",)) == pytest.approx(0.0)
    assert waiting((first, first), ("norm", "conv")) == pytest.approx(0.0)
