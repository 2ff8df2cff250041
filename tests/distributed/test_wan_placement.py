"""Promises 1 and 4 for Wan: ranks, clips and blocks do not show, and what a rank receives is the
formula's."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed.harness import (
    TOLERANCE,
    WIRES,
    on_processes,
    on_threads,
    relative_difference,
)
from tests.distributed.wan_harness import (
    CASES,
    LATENT_FRAMES,
    NUM_FRAMES,
    ON_PROCESSES,
    PROMPTS_OVER_TIME,
    WRONG_IS_BEYOND,
    Case,
    latents_on_ranks,
    load,
    on_ranks,
    predict_on_ranks,
    request_of,
    run_of,
)
from video_infinity.adapters import Adapter
from video_infinity.adapters.footprint import Footprint, trace
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.context import frame_layers, frames, layers
from video_infinity.context.exchange import Neighbourhood
from video_infinity.context.frames import FrameLayout
from video_infinity.context.text import FrameText
from video_infinity.estimate import bytes_received
from video_infinity.methods.clip_parallel import denoise_clip_parallel
from video_infinity.plan import Clip, Plan, Scopes, clips_of_lengths, split_timeline
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare

SIZES = (2, 3, 5)


@cache
def one_rank(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return on_ranks(CASES[name], 1)


def assert_same_video(name: str, latents: torch.Tensor, frames_FHWC: torch.Tensor) -> None:
    expected_latents, expected_frames = one_rank(name)
    assert latents.shape[1] == LATENT_FRAMES
    assert relative_difference(latents, expected_latents) < TOLERANCE
    assert len(frames_FHWC) == len(expected_frames) == NUM_FRAMES * CASES[name].decodes
    if CASES[name].decodes:
        assert int((frames_FHWC.int() - expected_frames.int()).abs().max()) <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_threads_give_the_video_of_one_rank(name: str, size: int) -> None:
    assert_same_video(name, *on_ranks(CASES[name], size))


@pytest.fixture(scope="module", params=WIRES)
def process_results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, torch.Tensor]]:
    """Those cases on three processes, spawned once: every phase of the exchange is there."""
    directory = tmp_path_factory.mktemp("ranks")
    return on_processes("tests.distributed.wan_worker", 3, directory, request.param)


@pytest.mark.parametrize("name", ON_PROCESSES)
def test_processes_give_the_video_of_one_rank(
    name: str, process_results: list[dict[str, torch.Tensor]]
) -> None:
    latents = torch.cat([tensors[f"{name}/latents"] for tensors in process_results], 1)
    assert_same_video(name, latents, process_results[0][f"{name}/frames"])


@pytest.mark.parametrize("name", ["rotating global context", "bias that switches"])
def test_what_a_case_sets_does_count(name: str) -> None:
    """All but the one thing is as in the plain case."""
    assert relative_difference(one_rank(name)[0], one_rank("dual scope")[0]) > WRONG_IS_BEYOND


@pytest.mark.parametrize("more", [{"seed": 1}, {"global_frames": 0}, {"guidance_scale": 5.0}])
def test_options_do_count(more: dict[str, Any]) -> None:
    other = latents_on_ranks(CASES["dual scope"], 1, **more)
    assert relative_difference(other, one_rank("dual scope")[0]) > WRONG_IS_BEYOND


def test_the_first_frame_is_a_global_one_at_every_step() -> None:
    """It alone stands for one pixel frame; the others of a rotating context move on."""
    case = CASES["rotating global context"]
    facts = load(case, 0).facts
    plan = make_plan(prepare(request_of(case), facts, 1), facts, 1)
    contexts = [plan.at_step(step).global_context for step in range(200)]
    assert all(context[0] == 0 and len(set(context)) == 5 for context in contexts)
    assert {frame for context in contexts for frame in context} == set(range(LATENT_FRAMES))


def test_prompts_over_time_count_where_they_hold() -> None:
    """Frames that see none of another prompt are those of a video without it."""
    case = Case(options={"local_frames": 0, "global_frames": 0})
    expected = latents_on_ranks(case, 1)
    story = [{"start": 0, "prompt": "a b c"}, {"start": 121, "prompt": "x y", "transition": 40}]
    told = latents_on_ranks(Case(timeline=story, options=case.options), 2)
    assert relative_difference(told[:, :32], expected[:, :32]) < TOLERANCE
    assert relative_difference(told[:, 40:], expected[:, 40:]) > WRONG_IS_BEYOND


def test_clips_without_exchange_do_differ() -> None:
    """A rank's clip as a video of its own shows its placement: else this file proves nothing."""
    case = CASES["dual scope"]

    def alone(comm: Communicator, adapter: Adapter) -> torch.Tensor:
        job = run_of(case, comm, adapter).job()
        clip = Plan((Clip(0, len(job.clip)),), job.plan.scopes)
        *_, latents = denoise_clip_parallel(replace(job, comm=SingleCommunicator(), plan=clip))
        return latents[0]

    latents = torch.cat(on_threads(2, lambda rank: load(case, rank), alone), 1)
    assert relative_difference(latents, one_rank("dual scope")[0]) > WRONG_IS_BEYOND


Z_BCFHW = torch.randn(2, 4, LATENT_FRAMES, 4, 4, generator=torch.Generator().manual_seed(0))
SCOPES = Scopes(3, 5, keeps_first=True)


def predict(size: int = 1) -> torch.Tensor:
    return predict_on_ranks(Plan(split_timeline(LATENT_FRAMES, size), SCOPES), Z_BCFHW)


def test_the_size_of_a_block_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = predict()
    for block_tokens in (1, 7 * 4):
        monkeypatch.setattr(frames, "BLOCK_TOKENS", block_tokens)
        assert relative_difference(predict(2), expected) < 1e-5


def test_far_keys_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = predict()
    monkeypatch.setattr(frames, "near_offsets", lambda offset, *_: offset.astype(np.float64))
    assert relative_difference(predict(), moved) > WRONG_IS_BEYOND


def test_fails_when_far_keys_are_moved_by_their_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a clip of 21 frames as if it were a short video."""
    expected, lay_out = predict(), layers.lay_out_frames
    assert relative_difference(predict(3), expected) < TOLERANCE

    def by_clip(plan: Plan, clip: Clip, *rest: Any) -> FrameLayout:
        wrong: Any = SimpleNamespace(
            local_frames=plan.local_frames,
            global_context=plan.global_context,
            num_latent_frames=len(clip),
        )
        return lay_out(wrong, clip, *rest)

    monkeypatch.setattr(layers, "lay_out_frames", by_clip)
    assert relative_difference(predict(1), expected) < TOLERANCE, "one clip is the video"
    assert relative_difference(predict(3), expected) > WRONG_IS_BEYOND


# In float64, over more steps


STRICT = Case(
    timeline=PROMPTS_OVER_TIME,
    options={
        "local_frames": 3,
        "global_frames": 5,
        "global_rule": "rotating",
        "global_bias": 1.0,
        "num_inference_steps": 10,
    },
)
STRICT_TOLERANCE, STRICT_WRONG = 1e-9, 1e-6


def strict_latents(size: int) -> torch.Tensor:
    """With the model's own steps down to float32 left out, which hide what is smaller."""
    models: list[Any] = [load(STRICT, rank) for rank in range(size)]
    for adapter in models:
        for module in (*adapter.experts, adapter.text_encoder):
            if module is not None:
                module.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda self: self)
        parts = on_threads(
            size,
            lambda rank: models[rank],
            lambda comm, adapter: run_of(STRICT, comm, adapter).denoise()[0],
        )
    return torch.cat(parts, 1)


@cache
def one_strict_rank() -> torch.Tensor:
    latents = strict_latents(1)
    assert latents.dtype == torch.float64 and latents.shape[1] == LATENT_FRAMES
    return latents


@pytest.mark.parametrize("size", SIZES)
def test_in_float64_ranks_give_the_latents_of_one_rank(size: int) -> None:
    assert relative_difference(strict_latents(size), one_strict_rank()) < STRICT_TOLERANCE


def test_float64_is_the_same_video() -> None:
    difference = relative_difference(latents_on_ranks(STRICT, 1), one_strict_rank())
    assert STRICT_TOLERANCE < difference < TOLERANCE


@pytest.mark.parametrize("where", ["keys of the first layer", "values of the last layer"])
def test_in_float64_a_single_exchange_that_is_lost_shows(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros come in its place, in one layer of one step."""
    layers_of_all_steps = len(load(STRICT, 0).sites().frame_attention) * 10
    lost = 1 if where.startswith("keys") else 2 * layers_of_all_steps
    calls, widen = threading.local(), frame_layers.widen

    def losing(own: torch.Tensor, nth: int, around: Neighbourhood, dim: int) -> torch.Tensor:
        calls.count = getattr(calls, "count", 0) + 1
        if calls.count != lost:
            return widen(own, nth, around, dim)
        sides = {
            name: None if side is None else tuple(map(torch.zeros_like, side))
            for name, side in (("left", around.left), ("right", around.right))
        }
        return widen(own, nth, replace(around, **sides), dim)

    monkeypatch.setattr(frame_layers, "widen", losing)
    assert relative_difference(strict_latents(2), one_strict_rank()) > STRICT_WRONG


# What travels


FLOAT32_BYTES, GUIDANCE_BATCH = 4, 2


@pytest.fixture(scope="module")
def footprint() -> Footprint:
    adapter, text_SD = load(CASES["dual scope"], 0), torch.zeros(1, 16)
    return trace(
        adapter.sites(),
        lambda count, _: adapter.denoise(
            torch.zeros(1, 4, count, 4, 4),
            torch.tensor(0),
            FrameText(text_SD[None], ((0,) * count,)),
        ),
        text_SD,
        num_weights=0,
        num_text_weights=0,
    )


def measured_on(size: int, case: Case, **more: Any) -> list[list[int]]:
    """Bytes per step of every rank."""

    def measure(comm: Communicator, adapter: Adapter) -> list[int]:
        run = run_of(case, comm, adapter, num_inference_steps=2, **more)
        run.denoise()
        return run.measures.bytes_per_step

    return on_threads(size, lambda rank: load(case, rank), measure)


@pytest.mark.parametrize("name", ["dual scope", "rotating global context", "uneven clips"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_measured_bytes_are_the_formula(name: str, size: int, footprint: Footprint) -> None:
    case = CASES[name]
    facts = load(case, 0).facts
    plan = make_plan(prepare(request_of(case), facts, size), facts, size)
    lengths = case.clip_lengths.get(size)
    if lengths is not None:
        plan = Plan(clips_of_lengths(lengths), plan.scopes)
    for rank, measured in enumerate(measured_on(size, case)):
        assert measured == [
            bytes_received(plan.at_step(step), footprint, rank, GUIDANCE_BATCH, FLOAT32_BYTES)
            for step in range(2)
        ]
        assert (measured[0] > 0) == (size > 1)


def test_the_formula_is_keys_and_values_of_every_layer(footprint: Footprint) -> None:
    """Two layers of 24 channels, over the 2 by 2 tokens of a frame; nothing else travels."""
    assert footprint.attention_values == 2 * 2 * 24 * 4
    assert footprint.conv_values == footprint.moment_values == 0


def test_an_inner_rank_receives_the_same_whatever_the_length_and_the_ranks(
    footprint: Footprint,
) -> None:
    """Exactly so without global context: the neighbours' three frames on each side."""
    case = Case(options={"local_frames": 3, "global_frames": 0})
    of_a_frame = footprint.attention_values * GUIDANCE_BATCH * FLOAT32_BYTES
    for num_frames in (NUM_FRAMES, 481):
        for size in (4, 6):
            first, *inner, last = measured_on(size, case, num_frames=num_frames)
            assert inner == [[6 * of_a_frame] * 2] * (size - 2)
            assert first == last == [3 * of_a_frame] * 2


def test_with_global_context_an_inner_rank_receives_no_more_than_both_scopes(
    footprint: Footprint,
) -> None:
    """It owns some of the global frames, or has them in its halo: how many depends on where."""
    case = Case(options={"local_frames": 3, "global_frames": 5})
    of_a_frame = footprint.attention_values * GUIDANCE_BATCH * FLOAT32_BYTES
    for num_frames, size in ((NUM_FRAMES, 4), (NUM_FRAMES, 6), (481, 6)):
        for received in measured_on(size, case, num_frames=num_frames)[1:-1]:
            assert 6 * of_a_frame <= min(received)
            assert max(received) <= (6 + 5) * of_a_frame
