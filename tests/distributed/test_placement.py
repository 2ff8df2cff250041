"""Promise 1: the video does not show how many ranks made it, nor how the frames were shared out."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.distributed.harness import (
    CASES,
    NUM_FRAMES,
    ON_PROCESSES,
    TOLERANCE,
    Case,
    latents_on_ranks,
    load,
    on_processes,
    on_ranks,
    on_threads,
    reference,
    relative_difference,
    run_of,
)
from video_infinity.adapters import Adapter
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.context import layers
from video_infinity.methods.clip_parallel import denoise_clip_parallel
from video_infinity.plan import Clip, Plan, Transfer

SIZES = (2, 3, 5)

STRICT_TOLERANCE, WRONG_IS_BEYOND = 1e-9, 1e-6
"""In float64: where exact arithmetic must agree, and what one wrong layer must exceed."""
STRICT_STEPS = 10


def strict_case(unet: str, scheduler: str, **scheduler_options: object) -> Case:
    """Float64 and weights at full gain: a model that amplifies whatever differs."""
    return Case(
        unet=unet,
        gain=1.0,
        dtype=torch.float64,
        scheduler=scheduler,
        scheduler_options=scheduler_options,
        options={
            "local_frames": 3,
            "global_frames": 5,
            "num_inference_steps": STRICT_STEPS,
        },
    )


STRICT_CASES: dict[str, Case] = {
    f"{scheduler}, {unet}": strict_case(unet, scheduler, **options)
    for unet in ("cross-attention everywhere", "plain last level, two layers")
    for scheduler, options in (
        ("DDIMScheduler", {}),
        # It clips as the other does, lest the first step outweigh all later ones.
        ("DEISMultistepScheduler", {"thresholding": True}),
    )
}


@cache
def one_rank(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return reference(CASES[name])


def assert_same_video(name: str, latents: torch.Tensor, frames_FHWC: torch.Tensor) -> None:
    expected_latents, expected_frames = one_rank(name)
    assert latents.shape[1] == frames_FHWC.shape[0] == NUM_FRAMES
    assert relative_difference(latents, expected_latents) < TOLERANCE
    assert int((frames_FHWC.int() - expected_frames.int()).abs().max()) <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_threads_give_the_video_of_one_rank(name: str, size: int) -> None:
    assert_same_video(name, *on_ranks(CASES[name], size))


@pytest.fixture(
    scope="module", params=[*((size, "gloo") for size in SIZES), (3, "shared memory")], ids=str
)
def process_results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, torch.Tensor]]:
    """Those cases on that many processes, spawned once."""
    size, wire = request.param
    return on_processes("tests.distributed.worker", size, tmp_path_factory.mktemp("ranks"), wire)


@pytest.mark.parametrize("name", ON_PROCESSES)
def test_processes_give_the_video_of_one_rank(
    name: str, process_results: list[dict[str, torch.Tensor]]
) -> None:
    latents = torch.cat([tensors[f"{name}/latents"] for tensors in process_results], 1)
    assert_same_video(name, latents, process_results[0][f"{name}/frames"])


def test_seed_and_prompt_matter() -> None:
    expected, _ = one_rank("dual scope")
    case = CASES["dual scope"]
    other_seed, _ = reference(case, seed=1)
    other_prompt, _ = reference(Case(timeline="x y z", options=case.options))
    assert relative_difference(other_seed, expected) > 0.1
    assert relative_difference(other_prompt, expected) > 0.01


def test_a_rotating_global_context_is_another_video() -> None:
    difference = relative_difference(
        one_rank("rotating global context")[0], one_rank("dual scope")[0]
    )
    assert difference > 0.01


def test_clips_without_exchange_do_differ() -> None:
    """A rank's clip as a video of its own shows its placement: else this file proves nothing."""
    case = CASES["dual scope"]

    def alone(comm: Communicator, adapter: Adapter) -> torch.Tensor:
        job = run_of(case, comm, adapter).job()
        clip = Plan((Clip(0, len(job.clip)),), job.plan.scopes)
        *_, latents = denoise_clip_parallel(replace(job, comm=SingleCommunicator(), plan=clip))
        return latents[0]

    latents = torch.cat(on_threads(2, lambda rank: load(case, rank), alone), 1)
    assert relative_difference(latents, one_rank("dual scope")[0]) > 0.01


# In float64, over more steps, with weights that amplify


@cache
def one_strict_rank(name: str) -> torch.Tensor:
    latents = latents_on_ranks(STRICT_CASES[name], 1)
    assert latents.dtype == torch.float64 and latents.shape[1] == NUM_FRAMES
    return latents


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STRICT_CASES)
def test_in_float64_ranks_give_the_latents_of_one_rank(name: str, size: int) -> None:
    latents = latents_on_ranks(STRICT_CASES[name], size)
    assert relative_difference(latents, one_strict_rank(name)) < STRICT_TOLERANCE


class OnCall(threading.local):
    """Whether it is the nth call of a rank: ranks are threads, and call alike."""

    calls = 0

    def __init__(self, nth: int) -> None:
        self.nth = nth

    def __call__(self) -> bool:
        self.calls += 1
        return self.calls == self.nth


@pytest.fixture(scope="module", params=STRICT_CASES)
def strict(request: pytest.FixtureRequest) -> tuple[str, Adapter]:
    """A case, and its model for counting layers."""
    return request.param, load(STRICT_CASES[request.param], 0)


def assert_wrong(name: str) -> None:
    wrong = latents_on_ranks(STRICT_CASES[name], 2)
    assert relative_difference(wrong, one_strict_rank(name)) > WRONG_IS_BEYOND


@pytest.mark.parametrize("where", ["first", "last"])
def test_in_float64_a_single_dropped_halo_shows(
    where: str, strict: tuple[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, adapter = strict
    total = len(adapter.sites().convs) * STRICT_STEPS
    now, transfers = OnCall({"first": 1, "last": total}[where]), Plan.halo_transfers

    def dropped(plan: Plan, halo_frames: int) -> tuple[Transfer, ...]:
        return () if now() else transfers(plan, halo_frames)

    monkeypatch.setattr(Plan, "halo_transfers", dropped)
    assert_wrong(name)


@pytest.mark.parametrize("where", ["first", "last"])
def test_in_float64_moments_of_a_single_layer_that_stay_local_show(
    where: str, strict: tuple[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, adapter = strict
    sites = adapter.sites()
    total = (len(sites.convs) + len(sites.norms)) * STRICT_STEPS
    now, own = OnCall({"first": 1, "last": total}[where]), threading.local()
    of_clip, merge = layers.clip_moments, layers.merge_moments

    def noted(x_NCFHW: torch.Tensor, num_groups: int) -> torch.Tensor:
        own.moments = of_clip(x_NCFHW, num_groups)
        return own.moments

    def local(
        count_R: torch.Tensor, mean_RNG: torch.Tensor, var_RNG: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if now():
            return own.moments[0], own.moments[1]
        return merge(count_R, mean_RNG, var_RNG)

    monkeypatch.setattr(layers, "clip_moments", noted)
    monkeypatch.setattr(layers, "merge_moments", local)
    assert_wrong(name)
