"""bfloat16: plan and noise are the same on any number of ranks; the difference is bounded by the
precision, not promised."""

from __future__ import annotations

import torch

from tests.distributed.harness import CASES, NUM_FRAMES, pipe_of, relative_difference, request_of
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator
from video_infinity.comm.threads import run_ranks
from video_infinity.config import resolve
from video_infinity.engine import ClipRun, make_plan
from video_infinity.progress import silent

CASE = CASES["dual scope"]


def denoise(comm: Communicator, dtype: torch.dtype) -> torch.Tensor:
    pipe = pipe_of(CASE).to(dtype)
    adapter = adapter_of(pipe)
    request = resolve(request_of(CASE, num_inference_steps=2), adapter.facts.defaults)
    plan = make_plan(request, NUM_FRAMES, comm.size)
    return ClipRun(request, adapter, comm, plan, silent).denoise()[0]


def test_bfloat16_runs_and_stays_near_float32() -> None:
    exact = run_ranks(1, lambda comm: denoise(comm, torch.float32))[0]
    halves = [
        torch.cat(run_ranks(size, lambda comm: denoise(comm, torch.bfloat16)), 1) for size in (1, 3)
    ]
    for latents in halves:
        assert latents.dtype == torch.float32
        assert 1e-6 < relative_difference(latents, exact) < 1.0
    rms = (halves[0] - halves[1]).square().mean().sqrt() / exact.std()
    assert float(rms) < 0.1
