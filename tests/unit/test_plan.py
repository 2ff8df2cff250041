"""Clips, scopes and transfers: every needed frame comes once, from the rank that holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_infinity.errors import PlanError
from video_infinity.plan import (
    GLOBAL_RULES,
    Clip,
    Plan,
    Scopes,
    clips_of_lengths,
    split_timeline,
)

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=7)
scopes = st.builds(Scopes, st.integers(0, 40), st.integers(0, 20))


def needed(plan: Plan, rank: int) -> set[int]:
    """Promise 4, written out: (union of N(i) over the clip, and G) minus its own frames."""
    own, length = plan.clips[rank].frames, plan.num_latent_frames
    near = {j for i in own for j in range(length) if abs(i - j) <= plan.scopes.local_frames}
    return (near | set(plan.global_context)) - set(own)


@given(lengths, scopes)
def test_attention_transfers_are_exactly_what_is_needed(counts: list[int], scopes: Scopes) -> None:
    plan = Plan(clips_of_lengths(counts), scopes)
    for rank in range(plan.num_ranks):
        arriving = [t for t in plan.attention_transfers() if t.target == rank]
        frames = [frame for transfer in arriving for frame in transfer.frames]
        assert sorted(frames) == sorted(needed(plan, rank))
        assert all(frame in plan.clips[t.source] for t in arriving for frame in t.frames)
        assert len({t.source for t in arriving}) == len(arriving), "one message per pair"


def test_neighbours_meet_in_odd_even_then_even_odd_phases() -> None:
    plan = Plan(split_timeline(40, 5), Scopes(2, 0))
    phases = {(t.source, t.target): t.phase for t in plan.attention_transfers()}
    assert phases == {
        (0, 1): 3, (1, 0): 3, (1, 2): 2, (2, 1): 2, (2, 3): 3, (3, 2): 3, (3, 4): 2, (4, 3): 2,
    }  # fmt: skip
    for phase in (2, 3):
        busy = [rank for pair, p in phases.items() if p == phase for rank in pair]
        assert all(busy.count(rank) == 2 for rank in busy), "each rank has one partner a phase"
    with_global = Plan(split_timeline(40, 5), Scopes(2, 5)).attention_transfers()
    assert {t.phase for t in with_global if abs(t.source - t.target) > 1} == {1}


@given(st.integers(1, 400), st.integers(1, 40))
def test_clips_cover_the_timeline_evenly(num_latent_frames: int, num_ranks: int) -> None:
    if num_latent_frames < num_ranks:
        with pytest.raises(PlanError, match=f"cannot fill {num_ranks} ranks"):
            split_timeline(num_latent_frames, num_ranks)
        return
    clips = split_timeline(num_latent_frames, num_ranks)
    assert [frame for clip in clips for frame in clip.frames] == list(range(num_latent_frames))
    assert max(map(len, clips)) - min(map(len, clips)) <= 1


@given(st.integers(1, 3000), st.integers(0, 40), st.integers(1, 7))
def test_global_context_is_even_and_blind_to_ranks(length: int, count: int, ranks: int) -> None:
    chosen = Plan(clips_of_lengths((length,)), Scopes(0, count)).global_context
    assert len(set(chosen)) == min(count, length)
    assert all(0 <= frame < length for frame in chosen)
    if chosen:
        assert chosen[0] == 0
        gaps = [b - a for a, b in zip(chosen, (*chosen[1:], length), strict=True)]
        assert max(gaps) - min(gaps) <= 1
    if length >= ranks:
        assert Plan(split_timeline(length, ranks), Scopes(0, count)).global_context == chosen


rotating = st.builds(
    Scopes,
    st.just(0),
    st.integers(0, 40),
    global_rule=st.just("rotating"),
    keeps_first=st.booleans(),
)


def moved_on(frames: tuple[int, ...], scopes: Scopes, length: int) -> set[int]:
    """Each frame one place further, round and round; a first frame that is kept stays."""
    if not scopes.keeps_first:
        return {(frame + 1) % length for frame in frames}
    return {frame and frame % (length - 1) + 1 for frame in frames}


@given(st.integers(1, 400), rotating, st.integers(0, 1000))
def test_a_rotating_global_context_moves_one_place_per_step(
    length: int, scopes: Scopes, step: int
) -> None:
    plan = Plan(clips_of_lengths((length,)), scopes)
    now, following = (plan.at_step(s).global_context for s in (step, step + 1))
    assert len(now) == min(scopes.global_frames, length)
    assert list(now) == sorted(set(now))
    assert all(0 <= frame < length for frame in now)
    assert set(following) == moved_on(now, scopes, length)
    if scopes.keeps_first and now:
        assert now[0] == 0


@given(st.integers(1, 200), rotating, st.integers(0, 1000), st.integers(1, 7))
def test_a_rotating_global_context_is_blind_to_ranks(
    length: int, scopes: Scopes, step: int, ranks: int
) -> None:
    alone = Plan(clips_of_lengths((length,)), scopes)
    shared = Plan(split_timeline(length, min(ranks, length)), scopes)
    assert shared.at_step(step).global_context == alone.at_step(step).global_context


@pytest.mark.parametrize("keeps_first", [True, False])
def test_in_a_rotating_global_context_every_frame_has_its_turn(keeps_first: bool) -> None:
    plan = Plan(split_timeline(23, 3), Scopes(2, 5, "rotating", keeps_first))
    steps = 22 if keeps_first else 23
    seen = [frame for step in range(steps) for frame in plan.at_step(step).global_context]
    turns = {frame: seen.count(frame) for frame in range(23)}
    assert turns == (
        {0: 22} | dict.fromkeys(range(1, 23), 4) if keeps_first else dict.fromkeys(range(23), 5)
    )


@given(st.integers(1, 100), st.integers(0, 20), st.booleans())
def test_both_rules_begin_alike(length: int, count: int, keeps_first: bool) -> None:
    even, rotating = (
        Plan(clips_of_lengths((length,)), Scopes(0, count, rule, keeps_first)).at_step(0)
        for rule in GLOBAL_RULES
    )
    assert even.global_context == rotating.global_context


def test_a_plan_of_one_step_gives_that_of_any_other() -> None:
    even, rotating = (Plan(split_timeline(23, 3), Scopes(2, 5, rule)) for rule in GLOBAL_RULES)
    assert even.at_step(7) is even
    assert rotating.at_step(3).at_step(5) == rotating.at_step(5) != rotating
    assert rotating.at_step(3).at_step(0) == rotating


@given(lengths, rotating, st.integers(0, 100))
def test_attention_transfers_follow_the_step(counts: list[int], scopes: Scopes, step: int) -> None:
    plan = Plan(clips_of_lengths(counts), scopes).at_step(step)
    for rank in range(plan.num_ranks):
        arriving = [t for t in plan.attention_transfers() if t.target == rank]
        assert sorted(f for t in arriving for f in t.frames) == sorted(needed(plan, rank))


@st.composite
def plans_and_spans(draw: st.DrawFn) -> tuple[Plan, list[Clip | None]]:
    """A plan, and any span of the timeline, or none, for every rank."""
    plan = Plan(clips_of_lengths(draw(lengths)), Scopes(0, 0))
    bounds = st.lists(
        st.integers(0, plan.num_latent_frames), min_size=2, max_size=2, unique=True
    ).map(sorted)
    span = st.none() | bounds.map(lambda ends: Clip(*ends))
    return plan, draw(st.lists(span, min_size=plan.num_ranks, max_size=plan.num_ranks))


@given(plans_and_spans())
def test_transfers_bring_every_rank_its_span_and_nothing_else(
    given_: tuple[Plan, list[Clip | None]],
) -> None:
    plan, spans = given_
    transfers = plan.transfers(spans)
    assert all(frame in plan.clips[t.source] for t in transfers for frame in t.frames)
    assert all(t.source != t.target for t in transfers)
    for rank, span in enumerate(spans):
        arriving = [t for t in transfers if t.target == rank]
        frames = [frame for t in arriving for frame in t.frames]
        wanted = set(span.frames) - set(plan.clips[rank].frames) if span else set()
        assert sorted(frames) == sorted(wanted)
        assert len({t.source for t in arriving}) == len(arriving), "one message per pair"


def test_transfers_want_a_span_for_every_rank() -> None:
    with pytest.raises(AssertionError, match="a span for every rank"):
        Plan(split_timeline(8, 2), Scopes(0, 0)).transfers([None])


def test_ranks_without_a_clip_may_want_frames() -> None:
    transfers = Plan(split_timeline(8, 2), Scopes(0, 0)).transfers([None, Clip(3, 6), (1, 7)])
    assert [(t.source, t.target, t.frames) for t in transfers] == [
        (0, 2, (1,)),
        (1, 2, (7,)),
        (0, 1, (3,)),
    ]


def test_what_a_rank_receives_does_not_grow_with_length_or_ranks() -> None:
    """An inner rank far from any global frame of its own: 2h + |G| frames, whatever else."""
    for length, ranks in ((512, 4), (2048, 4), (2048, 16)):
        plan = Plan(split_timeline(length, ranks), Scopes(8, 16))
        counts = [
            sum(len(t.frames) for t in plan.attention_transfers() if t.target == rank)
            for rank in range(ranks)
        ]
        assert max(counts) <= 2 * 8 + 16


def test_a_local_scope_beyond_the_video_is_cut_off() -> None:
    plan = Plan(split_timeline(10, 2), Scopes(10**6, 0))
    assert plan.local_frames == 9
    assert plan.reach(0, plan.local_frames) == Clip(0, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip(3, 3), "0 <= start < stop"),
        (lambda: clips_of_lengths((3, 0)), "at least 1"),
        (lambda: Plan((Clip(1, 2),), Scopes(0, 0)), "clips must touch"),
        (lambda: Plan((Clip(0, 2), Clip(3, 4)), Scopes(0, 0)), "clips must touch"),
        (lambda: Scopes(-1, 0), "must not be negative"),
        (lambda: split_timeline(0, 1), "at least 1"),
        (lambda: Plan(split_timeline(4, 2), Scopes(0, 0)).owner(4), "not in the timeline"),
    ],
)
def test_impossible_plans_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlanError, match=message):
        make()
