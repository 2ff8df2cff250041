"""Clip parallelism with parts left out: each is what its name says, and ranks do not show."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import pytest
import torch

from tests.distributed import wan_harness
from tests.distributed.harness import (
    TOLERANCE,
    Case,
    latents_on_ranks,
    load,
    on_threads,
    relative_difference,
    run_of,
)
from video_infinity.context import layers
from video_infinity.errors import PlanError
from video_infinity.peers import CUTS, SCOPE_PARTS
from video_infinity.plan import Plan

FRAMES, W = 12, 6
CASE = Case(
    options={
        "num_frames": FRAMES,
        "num_inference_steps": 2,
        "local_frames": 3,
        "global_frames": 0,
    }
)
WRONG_IS_BEYOND = 1e-2


@cache
def latents(without: str | None, size: int = 1) -> torch.Tensor:
    width = W if without is not None else None
    return latents_on_ranks(CASE, size, without=without, window_frames=width)


@pytest.mark.parametrize("part", CUTS)
def test_ranks_do_not_show(part: str) -> None:
    assert relative_difference(latents(part, 2), latents(part)) < TOLERANCE


def test_every_part_counts() -> None:
    made = [
        latents(None),
        *map(latents, CUTS),
        latents("conv,norm"),
        latents("conv,norm,attention"),
    ]
    for index, one in enumerate(made):
        assert all(relative_difference(one, other) > 1e-3 for other in made[:index])


def test_clips_without_any_exchange_are_independent_ones() -> None:
    """Where the local scope is a whole clip: the same video by another way."""
    scopes = {"local_frames": W}
    cut = latents_on_ranks(CASE, 1, without="conv, norm, attention", window_frames=W, **scopes)
    none = {"local_frames": None, "global_frames": None}
    apart = latents_on_ranks(CASE, 1, method="independent", window_frames=W, **none)
    assert relative_difference(cut, apart) < TOLERANCE


def test_a_video_of_one_clip_has_nothing_to_leave_out() -> None:
    cut = latents_on_ranks(CASE, 1, without="conv,norm,attention", window_frames=FRAMES)
    assert relative_difference(cut, latents(None)) < TOLERANCE


def no_halo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "halo_transfers", lambda self, halo_frames: ())


def no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "attention_transfers", lambda self: ())


def no_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    own, of_clip = threading.local(), layers.clip_moments

    def noted(x_NCFHW: torch.Tensor, num_groups: int) -> torch.Tensor:
        own.moments = of_clip(x_NCFHW, num_groups)
        return own.moments

    monkeypatch.setattr(layers, "clip_moments", noted)
    monkeypatch.setattr(layers, "merge_moments", lambda *_: (own.moments[0], own.moments[1]))


SPOILT = {"conv": no_halo, "norm": no_moments, "attention": no_attention}


@pytest.mark.parametrize("part", CUTS)
def test_what_is_left_out_is_what_two_ranks_do_not_exchange(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks of a clip each, whose exchange of that part is lost on the way."""
    expected = latents(part)
    SPOILT[part](monkeypatch)
    spoilt = latents_on_ranks(CASE, 2)
    assert relative_difference(spoilt, expected) < TOLERANCE


@pytest.mark.parametrize("part", SCOPE_PARTS)
def test_scopes_and_biases_are_left_out_by_their_options(part: str) -> None:
    case = Case(options={"num_frames": FRAMES, "num_inference_steps": 2})
    given = {"local_frames": 2, "global_frames": 3, "local_bias": 2.0, "global_bias": 3.0}
    zero = {
        "local": {"local_frames": 0},
        "global": {"global_frames": 0},
        "bias": {"local_bias": 0.0, "global_bias": 0.0},
    }[part]
    kept = {name: value for name, value in given.items() if name not in zero}
    by_name = latents_on_ranks(case, 1, without=part, **kept)
    by_value = latents_on_ranks(case, 1, **given | zero)
    assert torch.equal(by_name, by_value)
    assert relative_difference(by_name, latents_on_ranks(case, 1, **given)) > 1e-3


def test_ranks_hold_whole_clips() -> None:
    with pytest.raises(PlanError, match="2 clips of at most 6 latent frames cannot fill 3 ranks"):
        on_threads(
            3,
            lambda rank: load(CASE, rank),
            lambda comm, adapter: run_of(CASE, comm, adapter, without="conv", window_frames=W),
        )


def test_wan_attention_in_clips_of_its_own() -> None:
    options: dict[str, Any] = {"num_frames": 45, "num_inference_steps": 2}
    case = wan_harness.Case(options={**options, "local_frames": 6, "global_frames": 0})
    cut = [
        wan_harness.latents_on_ranks(case, size, without="attention", window_frames=6)
        for size in (1, 2)
    ]
    apart = wan_harness.latents_on_ranks(
        wan_harness.Case(options=options), 1, method="independent", window_frames=6
    )
    assert relative_difference(cut[1], cut[0]) < TOLERANCE
    assert relative_difference(cut[0], apart) < TOLERANCE
    assert relative_difference(cut[0], wan_harness.latents_on_ranks(case, 1)) > WRONG_IS_BEYOND
