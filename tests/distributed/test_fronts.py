"""Fronts: against a loop by hand over diffusers' own parts, and whether ranks show."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler

from tests.distributed import wan_harness
from tests.distributed.harness import (
    PROMPTS_OVER_TIME,
    TOLERANCE,
    Case,
    latents_on_ranks,
    load,
    on_threads,
    relative_difference,
    run_of,
)
from tests.distributed.test_chunked_methods import predict, reference_unet
from tests.distributed.test_methods import WRONG_IS_BEYOND, noise_of, ours
from tests.tiny import tiny_pipe
from video_infinity.adapters import inspect_model, load_model
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.comm.shared import held_bytes
from video_infinity.config import ModelSpec, Request
from video_infinity.engine import ClipRun
from video_infinity.estimate import describe_plan, estimate
from video_infinity.fronts import Fronts
from video_infinity.methods import METHODS
from video_infinity.methods.in_fronts import ranks_taking_part
from video_infinity.plan import GLOBAL_RULES
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent
from video_infinity.timeline import PromptTimeline

FRAMES, STEPS = 11, 3
CASE = Case(
    timeline=PROMPTS_OVER_TIME,
    options={
        "num_frames": 37,
        "num_inference_steps": STEPS,
        "local_frames": 3,
        "global_frames": 5,
        "front_frames": 5,
        "front_span": 16,
        "eta": 1.0,
        "global_rule": "rotating",
        "local_bias": 2.0,
        "global_bias": 3.0,
        "bias_switch": 500,
    },
)


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = tiny_pipe()
    made.set_progress_bar_config(disable=True)
    return made


@torch.inference_mode()
def by_hand(
    pipe: Any, noise_FCHW: torch.Tensor, delays: list[int], reach: int = FRAMES
) -> torch.Tensor:
    """Frame by frame, each with a scheduler of its own: noise until it is its turn, then diffusers'
    steps, then clean at timestep 0. A pass is a video of the frames that are within `reach` of one
    that takes a step."""
    schedulers, unet = [copy.deepcopy(pipe.scheduler) for _ in delays], reference_unet(pipe.unet)
    for scheduler in schedulers:
        scheduler.set_timesteps(STEPS)
    timesteps = schedulers[0].timesteps
    text, negative = pipe.encode_prompt("a b c", "cpu", 1, True)
    states, frames = torch.cat((negative, text)), list(noise_FCHW.unsqueeze(1).unsqueeze(3))
    for done in range(STEPS + max(delays)):
        times = []
        for delay in delays:
            step = done - delay
            over = torch.tensor(0)
            times.append(over if step >= STEPS else timesteps[max(0, step)])
        active = [i for i, delay in enumerate(delays) if 0 <= done - delay < STEPS]
        here = [i for i in range(len(delays)) if any(abs(i - j) <= reach for j in active)]
        z = torch.cat([frames[i] for i in here], 2)
        own_times = torch.stack([times[i] for i in here])
        predicted = predict(unet, z.repeat(2, 1, 1, 1, 1), own_times, states)
        guided = predicted[:1] + 3.0 * (predicted[1:] - predicted[:1])
        for i in active:
            own = guided[:, :, here.index(i)].unsqueeze(2)
            frames[i] = schedulers[i].step(own, times[i], frames[i]).prev_sample
    return torch.cat(frames, 2)[0]


@pytest.mark.parametrize("scheduler", [DDIMScheduler, UniPCMultistepScheduler])
@pytest.mark.parametrize("size", [1, 3])
def test_fronts_are_those_of_a_loop_by_hand(
    size: int, scheduler: Any, pipe: Any, tmp_path: Path
) -> None:
    """UniPC remembers its last steps, which differ from frame to frame."""
    noise, pipe = noise_of(FRAMES), copy.deepcopy(pipe)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    more = {"num_inference_steps": STEPS, "local_frames": FRAMES, "global_frames": 0}
    made = ours(pipe, noise, tmp_path, size, **more, front_frames=2, front_span=8)
    expected = by_hand(pipe, noise, [0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 2])
    assert relative_difference(made, expected) < TOLERANCE
    one_front = by_hand(pipe, noise, [frame // 2 for frame in range(FRAMES)])
    assert relative_difference(made, one_front) > WRONG_IS_BEYOND


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("span", [8, 16])
def test_a_pass_is_about_the_frames_near_a_front(
    span: int, size: int, pipe: Any, tmp_path: Path
) -> None:
    """All frames of a pass are global ones, so that each sees all others, as in diffusers' own."""
    noise = noise_of(FRAMES)
    more = {"num_inference_steps": STEPS, "local_frames": 1, "global_frames": FRAMES}
    made = ours(pipe, noise, tmp_path, size, **more, front_frames=1, front_span=span)
    delays = [*range(5), *range(6)] if span == 8 else [*range(FRAMES)]
    assert relative_difference(made, by_hand(pipe, noise, delays, reach=1)) < TOLERANCE
    for wrong in (0, 2, FRAMES):
        assert relative_difference(made, by_hand(pipe, noise, delays, wrong)) > WRONG_IS_BEYOND


def test_what_a_scheduler_remembers_shows(pipe: Any, tmp_path: Path) -> None:
    """So that the test above fails if frames forget their last steps."""
    noise, pipe = noise_of(FRAMES), copy.deepcopy(pipe)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    more = {"num_inference_steps": STEPS, "local_frames": FRAMES, "global_frames": 0}
    made = ours(pipe, noise, tmp_path, 1, **more, front_frames=2, front_span=8)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, solver_order=1)
    forgetful = ours(pipe, noise, tmp_path, 1, **more, front_frames=2, front_span=8)
    assert relative_difference(made, forgetful) > WRONG_IS_BEYOND


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_do_not_show(size: int) -> None:
    assert relative_difference(latents_on_ranks(CASE, size), alone()) < TOLERANCE


def test_branches_on_ranks_of_their_own_do_not_show() -> None:
    def denoise(comm: Communicator, adapter: Any) -> torch.Tensor:
        return run_of(CASE, comm, adapter, parallel="cfg=2,clip=2").denoise()[0]

    first, _, second, _ = on_threads(4, lambda rank: load(CASE, rank), denoise)
    assert relative_difference(torch.cat((first, second), 1), alone()) < TOLERANCE


def test_ranks_do_not_show_on_a_transformer() -> None:
    case = wan_harness.Case(
        options={"num_frames": 33, "local_frames": 2, "front_frames": 1, "front_span": 4},
    )
    one, two, together = (
        torch.cat(
            on_threads(
                size,
                lambda rank: wan_harness.load(case, rank),
                lambda comm, adapter, m=more: wan_harness.run_of(  # type: ignore[misc]
                    case, comm, adapter, **m
                ).denoise()[0],
            ),
            1,
        )
        for size, more in ((1, {}), (2, {}), (1, {"front_frames": 0, "front_span": None}))
    )
    assert relative_difference(two, one) < TOLERANCE
    assert relative_difference(together, one) > WRONG_IS_BEYOND


def alone() -> torch.Tensor:
    return latents_on_ranks(CASE, 1)


def test_fronts_that_reach_all_at_once_are_none() -> None:
    more: dict[str, Any] = {"local_bias": 0.0, "global_bias": 0.0}
    reached = latents_on_ranks(CASE, 1, **more, front_frames=37, front_span=37)
    together = latents_on_ranks(CASE, 1, **more, front_frames=0, front_span=None)
    assert relative_difference(reached, together) < TOLERANCE
    assert relative_difference(latents_on_ranks(CASE, 1, **more), together) > WRONG_IS_BEYOND


def test_a_frame_waits_as_noise_and_is_left_alone_when_it_is_done() -> None:
    run = run_of(CASE, SingleCommunicator(), load(CASE, 0))
    job = run.job()
    method = METHODS["clip-parallel"]
    states = [job.noise_1CFHW, *(z.clone() for z in method.denoise(job))]
    assert len(states) - 1 == method.num_steps(job.how, 37, STEPS) == STEPS + 2
    for frame, delay in {0: 0, 5: 1, 11: 2, 12: 0, 23: 2, 24: 0, 36: 2}.items():
        own = [z[:, :, frame] for z in states]
        changes = [not torch.equal(a, b) for a, b in itertools.pairwise(own)]
        assert changes == [delay <= step < delay + STEPS for step in range(STEPS + 2)]


@pytest.mark.parametrize("parallel", ["clip=3", "cfg=2,clip=2", "clip=29"])
@pytest.mark.parametrize("rule", GLOBAL_RULES)
def test_plan_says_what_a_rank_receives_in_the_widest_pass(
    rule: str, parallel: str, tiny_model: Path
) -> None:
    spec = ModelSpec(model=str(tiny_model), device="cpu")
    options = {**CASE.options, "parallel": parallel, "guidance_scale": 3.0, "global_rule": rule}
    options |= {"local_frames": 2, "eta": 0.0, "model": spec.model, "device": "cpu"}
    facts, size = inspect_model(spec), 4 if "cfg" in parallel else int(parallel[len("clip=") :])
    request = prepare(Request.from_options(PromptTimeline.single("a b"), options), facts, size)
    predicted = estimate(request, facts, size)
    sizes = Fronts(5, 16).sizes(37, STEPS, 2)
    assert predicted["steps"] == len(sizes) == STEPS + 2
    assert predicted["global_frames"] == 5 and predicted["global_context"] is None
    assert f"global context 5, {rule}: of each pass" in describe_plan(predicted)
    assert sizes[0] == 5 + 2 + 2 * (5 + 4) and len(set(sizes)) > 2

    def measure(comm: Communicator, adapter: Any) -> list[int]:
        run = ClipRun(request, adapter, comm, make_plan(request, facts, size), silent)
        run.denoise()
        return run.measures.bytes_per_step

    measured = on_threads(size, lambda rank: load_model(spec, reads_text=rank == 0), measure)
    widest = sizes.index(max(sizes))
    assert predicted["bytes_received_per_step"] == [steps[widest] for steps in measured]
    assert all(len(set(steps)) > 1 for steps in measured)
    memory = predicted["expected_memory_bytes"]
    assert (min(memory) == held_bytes(size) < max(memory)) == (max(sizes) < size)


NARROW: dict[str, Any] = {"local_frames": 1, "front_frames": 1, "front_span": 99}
"""Passes of two to five frames."""


@pytest.mark.parametrize("parallel", ["clip=4", "clip=7", "cfg=2,clip=5"])
def test_ranks_that_sit_a_pass_out_do_not_show(parallel: str) -> None:
    cfg, size = (2, 10) if parallel.startswith("cfg") else (1, int(parallel[-1]))

    def denoise(comm: Communicator, adapter: Any) -> torch.Tensor:
        return run_of(CASE, comm, adapter, parallel=parallel, **NARROW).denoise()[0]

    clips = on_threads(size, lambda rank: load(CASE, rank), denoise)[::cfg]
    one = latents_on_ranks(CASE, 1, **NARROW)
    assert relative_difference(torch.cat(clips, 1), one) < TOLERANCE
    assert relative_difference(alone(), one) > WRONG_IS_BEYOND


def test_as_many_ranks_take_part_as_halving_leaves() -> None:
    assert [ranks_taking_part(frames, 24) for frames in (100, 24, 23, 12, 11, 5, 2, 1)] == [
        *(24, 24, 12, 12, 6, 3, 1, 1)
    ]
