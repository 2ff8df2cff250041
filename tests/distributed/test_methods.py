"""Peers beside the paper's method: what defines each, and that ranks do not show in any."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import save_file

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
from tests.tiny import tiny_pipe
from video_infinity.adapters import inspect_model, load_model
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.config import ModelSpec, Request
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.context.windowed import WindowedProcessor, window_parts
from video_infinity.engine import ClipRun
from video_infinity.estimate import describe_plan, estimate
from video_infinity.methods import METHODS as METHOD_TABLE
from video_infinity.methods.loop import context_alone, predict_guided, whole_plan
from video_infinity.methods.shared_windows import SharedWindows, counted
from video_infinity.noise import shuffled_frames
from video_infinity.plan import Plan, Scopes, clips_of_lengths, split_timeline
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent
from video_infinity.timeline import PromptTimeline
from video_infinity.windows import Windows

WRONG_IS_BEYOND = 1e-2
"""What a wrong formula must exceed, a hundred times the tolerance."""

FRAMES, W = 11, 6
STORY = [
    {"start": 0, "prompt": "a b c"},
    {"start": 5, "prompt": "d e", "transition": 4},
    {"start": 9, "prompt": "f"},
]
CASE = Case(
    scheduler="DPMSolverMultistepScheduler",  # it draws, and remembers
    scheduler_options={"algorithm_type": "sde-dpmsolver++"},
    timeline=STORY,
    options={"num_frames": FRAMES, "num_inference_steps": 2},
)
METHODS: dict[str, dict[str, Any]] = {
    "direct": {},
    "independent": {"window_frames": W},
    "freenoise": {"window_frames": W, "stride_frames": 4},
    "multidiffusion": {"window_frames": W, "stride_frames": 4},
    "autoregressive": {"window_frames": W, "stride_frames": 4},
    "masked-continuation": {"window_frames": W, "stride_frames": 4},
    "fifo": {"window_frames": 5, "num_inference_steps": 5},
}


def options_of(method: str, **more: Any) -> dict[str, Any]:
    return {"method": method, **METHODS[method], **more}


@cache
def one_rank(method: str) -> torch.Tensor:
    return latents_on_ranks(CASE, 1, **options_of(method))


@pytest.mark.parametrize("method", METHODS)
def test_ranks_do_not_show(method: str) -> None:
    """Three of them cut windows, and are more than there are independent clips."""
    latents = latents_on_ranks(CASE, 3, **options_of(method))
    assert latents.shape[1] == FRAMES
    assert relative_difference(latents, one_rank(method)) < TOLERANCE


@pytest.mark.parametrize("method", ["freenoise", "multidiffusion", "autoregressive", "fifo"])
def test_branches_on_ranks_of_their_own_do_not_show(method: str) -> None:
    def denoise(comm: Communicator, adapter: Any) -> torch.Tensor:
        more = options_of(method, parallel="cfg=2,clip=2")
        return run_of(CASE, comm, adapter, **more).denoise()[0]

    first, _, second, _ = on_threads(4, lambda rank: load(CASE, rank), denoise)
    assert relative_difference(torch.cat((first, second), 1), one_rank(method)) < TOLERANCE


def test_methods_make_different_videos() -> None:
    latents = [one_rank(method) for method in METHODS]
    for index, one in enumerate(latents):
        assert all(relative_difference(one, other) > 0.01 for other in latents[:index])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_the_noise_that_eta_asks_for(method: str) -> None:
    case = replace(CASE, scheduler="DDIMScheduler", scheduler_options={})
    drawn = latents_on_ranks(case, 1, **options_of(method, eta=1.0))
    none = latents_on_ranks(case, 1, **options_of(method))
    assert relative_difference(drawn, none) > WRONG_IS_BEYOND
    on_three = latents_on_ranks(case, 3, **options_of(method, eta=1.0))
    assert relative_difference(on_three, drawn) < TOLERANCE


# Against the unmodified pipeline


PIPE_FRAMES = 11


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = tiny_pipe()
    made.set_progress_bar_config(disable=True)
    return made


def pipeline_latents(pipe: Any, noise_FCHW: torch.Tensor) -> torch.Tensor:
    """What diffusers' own pipeline makes of a noise."""
    latents = pipe(
        "a b c",
        num_frames=len(noise_FCHW),
        num_inference_steps=3,
        guidance_scale=3.0,
        latents=noise_FCHW.transpose(0, 1)[None],
        output_type="latent",
    ).frames[0]
    return torch.as_tensor(latents)


def ours(
    pipe: Any,
    noise_FCHW: torch.Tensor,
    tmp_path: Path,
    size: int,
    knows_frames: bool = False,
    **more: Any,
) -> Any:
    def drive(rank: int) -> Any:
        adapter = adapter_of(copy.deepcopy(pipe))
        adapter.facts = replace(adapter.facts, knows_frames=knows_frames)
        return adapter

    save_file({"latents": noise_FCHW.contiguous()}, tmp_path / "noise.safetensors")
    case = Case(options={"initial_latents": tmp_path / "noise.safetensors"})
    parts = on_threads(
        size,
        drive,
        lambda comm, adapter: run_of(
            case, comm, adapter, num_frames=len(noise_FCHW), **more
        ).denoise()[0],
    )
    return torch.cat(parts, 1)


def noise_of(num_frames: int) -> torch.Tensor:
    return torch.randn(num_frames, 4, 4, 4, generator=torch.Generator().manual_seed(1))


SHORT: dict[str, dict[str, Any]] = {
    "direct": {},
    "independent": {"window_frames": PIPE_FRAMES},
    "freenoise": {"window_frames": PIPE_FRAMES + 5},
    "multidiffusion": {"window_frames": PIPE_FRAMES},
    "autoregressive": {"window_frames": PIPE_FRAMES},
    "masked-continuation": {"window_frames": PIPE_FRAMES + 5},
}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("method", SHORT)
def test_a_video_of_one_window_is_the_unmodified_pipelines(
    method: str, size: int, pipe: Any, tmp_path: Path
) -> None:
    noise = noise_of(PIPE_FRAMES)
    made = ours(pipe, noise, tmp_path, size, method=method, **SHORT[method])
    assert relative_difference(made, pipeline_latents(pipe, noise)) < TOLERANCE


@pytest.mark.parametrize("method", sorted(SHORT.keys() - {"direct"}))
def test_a_video_of_more_windows_is_not(method: str, pipe: Any, tmp_path: Path) -> None:
    noise = noise_of(PIPE_FRAMES)
    made = ours(pipe, noise, tmp_path, 1, method=method, window_frames=PIPE_FRAMES - 3)
    assert relative_difference(made, pipeline_latents(pipe, noise)) > WRONG_IS_BEYOND


@pytest.mark.parametrize("size", [1, 2])
def test_independent_clips_are_pipelines_runs_of_their_own(
    size: int, pipe: Any, tmp_path: Path
) -> None:
    """13 frames in clips of 5 at most: 4, 4 and 5."""
    noise = noise_of(13)
    made = ours(pipe, noise, tmp_path, size, method="independent", window_frames=5)
    expected = [pipeline_latents(pipe, noise[a:b]) for a, b in ((0, 4), (4, 8), (8, 13))]
    assert relative_difference(made, torch.cat(expected, 1)) < TOLERANCE


def test_multidiffusion_is_the_mean_of_windows_stepped_apart(pipe: Any, tmp_path: Path) -> None:
    """As the original has it: every window takes a step of its own, then frames are averaged.

    By hand, with diffusers' own denoiser and scheduler, in windows 0 to 5, 3 to 8 and 5 to 10.
    """
    noise = noise_of(PIPE_FRAMES)
    made = ours(pipe, noise, tmp_path, 2, method="multidiffusion", window_frames=6, stride_frames=3)
    windows = [slice(0, 6), slice(3, 9), slice(5, 11)]
    assert relative_difference(made, stepped_apart(pipe, noise, windows)) < TOLERANCE
    no_tail = stepped_apart(pipe, noise, [slice(0, 6), slice(3, 9), slice(6, 11)])
    assert relative_difference(made, no_tail) > WRONG_IS_BEYOND


@torch.inference_mode()
def stepped_apart(pipe: Any, noise: torch.Tensor, windows: list[slice]) -> torch.Tensor:
    scheduler, unet = copy.deepcopy(pipe.scheduler), pipe.unet
    scheduler.set_timesteps(3)
    text, negative = pipe.encode_prompt("a b c", "cpu", 1, True)
    z = noise.transpose(0, 1)[None]
    for timestep in scheduler.timesteps:
        total, count = torch.zeros_like(z), torch.zeros(z.shape[2]).view(1, 1, -1, 1, 1)
        for window in windows:
            part = z[:, :, window]
            predicted = unet(part.repeat(2, 1, 1, 1, 1), timestep, torch.cat((negative, text)))[0]
            guided = predicted[:1] + 3.0 * (predicted[1:] - predicted[:1])
            frames = [x[0].transpose(0, 1) for x in (guided, part)]
            stepped = scheduler.step(frames[0], timestep, frames[1]).prev_sample
            total[:, :, window] += stepped.transpose(0, 1)[None]
            count[:, :, window] += 1
        z = total / count
    return z[0]


# FreeNoise's attention


@pytest.mark.parametrize("lengths", [(19,), (4, 15), (1, 9, 2, 7)])
def test_window_weights_sum_to_one_at_every_frame(lengths: tuple[int, ...]) -> None:
    plan = Plan(clips_of_lengths(lengths), Scopes(7, 0, windows=Windows(8, 3)))
    for rank, clip in enumerate(plan.clips):
        at_hand = sorted(
            {f for t in plan.attention_transfers() if t.target == rank for f in t.frames}
            | set(clip.frames)
        )
        total_F = torch.zeros(len(clip))
        for part in window_parts(plan, rank, at_hand):
            total_F[part.queries] += part.weight_Q
            assert at_hand[part.keys][-1] - at_hand[part.keys][0] == 7
        assert torch.allclose(total_F, torch.ones(len(clip)))


def test_attention_in_windows_is_the_weighted_mean_of_softmaxes() -> None:
    """By a dense matrix per frame: sum over windows of weight times softmax over the window."""
    plan = Plan(clips_of_lengths((5, 6)), Scopes(3, 0, windows=Windows(4, 3)))
    attn = Attention(12, heads=2, dim_head=6).eval()
    hidden_SFC = torch.randn(3, 11, 12, generator=torch.Generator().manual_seed(0))

    def attend_on(comm: Communicator, _: None) -> torch.Tensor:
        text = FrameText(torch.zeros(1, 1, 1), ((0,),))
        clip = plan.clips[comm.rank]
        with torch.inference_mode():
            processor = WindowedProcessor(ClipContext(comm, plan, text))
            return processor(attn, hidden_SFC[:, clip.start : clip.stop])

    ours = torch.cat(on_threads(2, lambda rank: None, attend_on), 1)
    assert relative_difference(ours, dense(attn, hidden_SFC, pyramid=True)) < 1e-5
    assert relative_difference(ours, dense(attn, hidden_SFC, pyramid=False)) > WRONG_IS_BEYOND


@torch.inference_mode()
def dense(attn: Any, hidden_SFC: torch.Tensor, *, pyramid: bool) -> torch.Tensor:
    """Windows 0-3, 3-6, 6-9 and 7-10 of eleven frames, with weights 1, 2, 2, 1, or all alike."""
    q, k, v = (
        to(hidden_SFC).unflatten(-1, (2, 6)).transpose(1, 2)
        for to in (attn.to_q, attn.to_k, attn.to_v)
    )
    logits = q @ k.transpose(-1, -2) * 6**-0.5
    weights = torch.tensor([1.0, 2.0, 2.0, 1.0]) if pyramid else torch.ones(4)
    mixed, total = torch.zeros_like(logits), torch.zeros(11)
    for start in (0, 3, 6, 7):
        window = slice(start, start + 4)
        softmax = logits[..., window, window].softmax(-1)
        mixed[..., window, window] += weights[:, None] * softmax
        total[window] += weights
    out = (mixed / total[:, None]) @ v
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


def test_freenoise_begins_with_the_first_windows_noise() -> None:
    case = Case(options={"num_frames": 20, "window_frames": 8, "stride_frames": 2})
    adapter = load(case, 0)
    run = run_of(case, SingleCommunicator(), adapter, method="freenoise")
    noise = run.job().noise_1CFHW[0].transpose(0, 1)
    source = shuffled_frames(0, 20, 8, 2)
    assert source != list(range(20))
    assert all(torch.equal(noise[f], noise[of]) for f, of in enumerate(source))
    clip_parallel = Case(options={"num_frames": 20, "window_frames": 8, "noise": "freenoise"})
    ours = run_of(clip_parallel, SingleCommunicator(), adapter).job().noise_1CFHW
    assert torch.equal(ours[0].transpose(0, 1), noise)


# What `plan` says


QUICK = {("multidiffusion", "cfg=2,clip=2"), ("autoregressive", "clip=3"), ("fifo", "clip=3")}


@pytest.mark.parametrize(
    ("method", "parallel"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(METHODS, ("clip=3", "cfg=2,clip=2"))
    ],
)
def test_plan_says_what_a_rank_receives(method: str, parallel: str, tiny_model: Path) -> None:
    """At the first step; or that it does not know."""
    spec = ModelSpec(model=str(tiny_model), device="cpu")
    options = {"num_frames": 11, "num_inference_steps": 2, "guidance_scale": 3.0}
    options |= options_of(method, parallel=parallel)
    request = Request.from_options(
        PromptTimeline.single("a b"), {**options, "model": spec.model, "device": "cpu"}
    )
    facts, size = inspect_model(spec), 3 if parallel == "clip=3" else 4
    request = prepare(request, facts, size)
    predicted = estimate(request, facts, size)
    assert len(predicted["expected_memory_bytes"]) == size
    assert predicted["steps"] == {"autoregressive": 6, "masked-continuation": 6}.get(
        method, 2 * 5 - 5 + 11 if method == "fifo" else 2
    )
    told_how = "known frames: replacement" in describe_plan(predicted).splitlines()
    assert told_how == (method == "autoregressive"), "this model was not trained on known ones"
    if method == "fifo":
        assert predicted["bytes_received_per_step"] == [None] * size
        assert describe_plan(predicted).count("not modelled") == size
        return

    def measure(comm: Communicator, adapter: Any) -> int:
        plan = make_plan(request, facts, size)
        run = ClipRun(request, adapter, comm, plan, silent)
        job = run.job()
        before = comm.bytes_received
        next(METHOD_TABLE[method].denoise(job))
        return comm.bytes_received - before

    measured = on_threads(size, lambda rank: load_model(spec, reads_text=rank == 0), measure)
    assert measured == predicted["bytes_received_per_step"]


# Wan: another family, behind the same protocol


WAN = wan_harness.Case(
    timeline=[{"start": 0, "prompt": "a b c"}, {"start": 21, "prompt": "x y", "transition": 8}],
    options={"num_frames": 61, "num_inference_steps": 2},
)


@pytest.mark.parametrize("method", METHODS)
def test_wan_ranks_do_not_show(method: str) -> None:
    expected = wan_harness.latents_on_ranks(WAN, 1, **options_of(method))
    assert expected.shape[1] == 16
    latents = wan_harness.latents_on_ranks(WAN, 3, **options_of(method))
    assert relative_difference(latents, expected) < TOLERANCE


def test_wan_windows_do_not_count_where_they_take_a_frame_for_a_beginning() -> None:
    case = wan_harness.Case(options={"num_frames": 33})
    run = wan_harness.run_of(case, SingleCommunicator(), wan_harness.load(case, 0))
    job, windows = run.job(), [range(4), range(2, 6), range(5, 9)]
    context, timestep = context_alone(job), job.scheduler.timesteps[0]
    z = torch.randn(1, 4, 9, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), installed(job.adapter.sites(), context), context.at(900.0, 0):
        made = SharedWindows(job, windows).predict(context, z, timestep)
        apart = []
        for w in windows:
            context.hold(whole_plan(len(w)))
            part = z[:, :, w.start : w.stop]
            apart.append(predict_guided(job, context, part, timestep, job.texts_of(w)))
    first, second, third = apart
    torch.testing.assert_close(made[:, :, :3], first[:, :, :3])
    both = (first[:, :, 3] + second[:, :, 1]) / 2
    torch.testing.assert_close(made[:, :, 3], both)
    torch.testing.assert_close(made[:, :, 4:6], second[:, :, 2:])
    torch.testing.assert_close(made[:, :, 6:], third[:, :, 1:])
    assert counted(windows, first_differs=False) == windows
    apart_alone = [range(4), range(4, 8)]
    assert counted(apart_alone, first_differs=True) == apart_alone, "no other holds its first"


def test_wan_attention_in_one_window_is_the_whole_models() -> None:
    z_BCFHW = torch.randn(2, 4, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    clips = split_timeline(7, 2)
    made = [
        wan_harness.predict_on_ranks(Plan(clips, Scopes(6, 0, windows=windows)), z_BCFHW)
        for windows in (Windows(9, 3), Windows(4, 2))
    ]
    expected = wan_harness.predict_whole(z_BCFHW)
    assert relative_difference(made[0], expected) < TOLERANCE
    assert relative_difference(made[1], expected) > WRONG_IS_BEYOND
