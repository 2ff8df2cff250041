"""Promise 4: what a rank receives is the formula's, to the byte."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.distributed.harness import CASES, NUM_FRAMES, pipe_of, request_of
from video_infinity.adapters.footprint import Footprint, trace
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator
from video_infinity.comm.threads import run_ranks
from video_infinity.config import resolve
from video_infinity.engine import ClipRun, make_plan
from video_infinity.estimate import bytes_received
from video_infinity.progress import silent

CASE = CASES["dual scope"]
FLOAT32_BYTES, GUIDANCE_BATCH = 4, 2


@pytest.fixture(scope="module")
def footprint() -> Footprint:
    import torch

    adapter = adapter_of(pipe_of(CASE))
    text_SD = torch.zeros(1, 16)
    return trace(
        adapter.sites(),
        lambda frames: adapter.denoise(
            torch.zeros(1, 4, frames, 4, 4), torch.tensor(0), text_SD[None]
        ),
        text_SD,
        num_weights=0,
    )


def measure(comm: Communicator, method: str = "clip-parallel") -> list[int]:
    adapter = adapter_of(pipe_of(CASE))
    request = resolve(request_of(CASE, num_inference_steps=2), adapter.facts.defaults)
    request = replace(request, run=replace(request.run, method=method))
    plan = make_plan(request, NUM_FRAMES, comm.size)
    run = ClipRun(request, adapter, comm, plan, silent)
    run.denoise()
    return run.measures.bytes_per_step


@pytest.mark.parametrize("size", [1, 2, 4])
def test_measured_bytes_are_the_formula(size: int, footprint: Footprint) -> None:
    request = resolve(request_of(CASE), adapter_of(pipe_of(CASE)).facts.defaults)
    plan = make_plan(request, NUM_FRAMES, size)
    for rank, measured in enumerate(run_ranks(size, measure)):
        expected = bytes_received(plan, footprint, rank, GUIDANCE_BATCH, FLOAT32_BYTES)
        assert measured == [expected, expected]
        assert (expected > 0) == (size > 1)


def test_independent_clips_receive_nothing() -> None:
    assert run_ranks(2, lambda comm: measure(comm, "independent")) == [[0, 0], [0, 0]]
