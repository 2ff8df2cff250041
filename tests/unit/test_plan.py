"""Clips, scopes and transfers: every needed frame comes once, from the rank that holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_infinity.errors import PlanError
from video_infinity.plan import Clip, Plan, Scopes, clips_of_lengths, split_timeline

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
