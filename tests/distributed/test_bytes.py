"""Promise 4: what a rank receives is the formula's, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed.harness import CASES, load, on_threads, request_of, run_of
from video_infinity.adapters import Adapter
from video_infinity.adapters.footprint import Footprint, trace
from video_infinity.comm import Communicator
from video_infinity.config import resolve
from video_infinity.context.text import FrameText
from video_infinity.estimate import bytes_received
from video_infinity.plan import GLOBAL_RULES
from video_infinity.planning import make_plan

CASE = CASES["dual scope"]
FLOAT32_BYTES, GUIDANCE_BATCH, NUM_STEPS = 4, 2, 2


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return load(CASE, 0)


@pytest.fixture(scope="module")
def footprint(adapter: Adapter) -> Footprint:
    text_SD = torch.zeros(1, 16)
    return trace(
        adapter.sites(),
        lambda frames, _: adapter.denoise(
            torch.zeros(1, 4, frames, 4, 4),
            torch.tensor(0),
            FrameText(text_SD[None], ((0,) * frames,)),
        ),
        text_SD,
        num_weights=0,
        num_text_weights=0,
    )


def measured_on(size: int, **options: Any) -> list[list[int]]:
    """Bytes per step of every rank."""

    def measure(comm: Communicator, adapter: Adapter) -> list[int]:
        run = run_of(CASE, comm, adapter, num_inference_steps=NUM_STEPS, **options)
        run.denoise()
        return run.measures.bytes_per_step

    return on_threads(size, lambda rank: load(CASE, rank), measure)


@pytest.mark.parametrize("rule", GLOBAL_RULES)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_measured_bytes_are_the_formula(
    size: int, rule: str, adapter: Adapter, footprint: Footprint
) -> None:
    request = resolve(request_of(CASE, global_rule=rule), adapter.facts.defaults)
    plan = make_plan(request, adapter.facts, size)
    for rank, measured in enumerate(measured_on(size, global_rule=rule)):
        expected = [
            bytes_received(plan.at_step(step), footprint, rank, GUIDANCE_BATCH, FLOAT32_BYTES)
            for step in range(NUM_STEPS)
        ]
        assert measured == expected
        assert (min(expected) > 0) == (size > 1)


def test_independent_clips_receive_nothing() -> None:
    no_scopes = {"local_frames": None, "global_frames": None}
    assert measured_on(2, method="independent", **no_scopes) == [[0, 0], [0, 0]]


def test_each_layer_is_one_round() -> None:
    """Moments and halo of a convolution go together, keys and values in one message."""

    def measure(comm: Communicator, adapter: Adapter) -> tuple[int, int, float]:
        run = run_of(CASE, comm, adapter, num_inference_steps=1)
        run.denoise()
        (tally,) = run.measures.exchanged_per_step
        return tally.posts, tally.gathers, tally.seconds_waited

    sites = load(CASE, 0).sites()
    for posts, gathers, waited in on_threads(2, lambda rank: load(CASE, rank), measure):
        assert posts == len(sites.attention) + len(sites.convs)
        assert gathers == len(sites.convs) + len(sites.norms)
        assert waited > 0
