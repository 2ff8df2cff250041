"""bfloat16: plan and noise are the same on any number of ranks; the difference is bounded by the
precision, not promised."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.distributed.harness import CASES, latents_on_ranks, relative_difference

CASE = CASES["dual scope"]


def test_bfloat16_runs_and_stays_near_float32() -> None:
    exact = latents_on_ranks(CASE, 1, num_inference_steps=2)
    half = replace(CASE, dtype=torch.bfloat16)
    halves = [latents_on_ranks(half, size, num_inference_steps=2) for size in (1, 3)]
    for latents in halves:
        assert latents.dtype == torch.float32
        assert 1e-6 < relative_difference(latents, exact) < 1.0
    rms = (halves[0] - halves[1]).square().mean().sqrt() / exact.std()
    assert float(rms) < 0.1
