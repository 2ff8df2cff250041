"""Promise 3 for Wan: a local scope over the whole timeline is the unmodified diffusers pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import save_file

from tests.distributed.harness import TOLERANCE, on_threads, relative_difference
from tests.distributed.wan_harness import (
    SECOND,
    WRONG_IS_BEYOND,
    Case,
    predict_on_ranks,
    predict_whole,
    run_of,
)
from tests.tiny_wan import FIRST, SCHEDULERS, TRANSFORMERS, tiny_residual_vae, tiny_wan_pipe
from video_infinity.adapters import Adapter
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator
from video_infinity.context import frame_layers, layers
from video_infinity.context.frames import FrameBlock, FrameLayout
from video_infinity.context.text import FrameText
from video_infinity.plan import Clip, Plan, Scopes, clips_of_lengths

NUM_FRAMES, LATENT_FRAMES = 41, 11
CLIP_LENGTHS = {1: (11,), 2: (4, 7), 3: (1, 7, 3)}
CALL = {
    "num_frames": NUM_FRAMES,
    "height": 64,
    "width": 32,
    "num_inference_steps": 5,
    "guidance_scale": 4.0,
    "negative_prompt": "d",
}
"""What both sides are told."""


@dataclass(frozen=True)
class Model:
    """A layout of Wan, and what is asked of it over `CALL`."""

    transformer: str = FIRST
    scheduler: str = "UniPC"
    two_experts: bool = False
    is_5b: bool = False
    more: Any = None

    def call(self) -> dict[str, Any]:
        return {**CALL, **(self.more or {})}

    def pipe(self) -> Any:
        pipe = tiny_wan_pipe(
            self.transformer, SCHEDULERS[self.scheduler](), two_experts=self.two_experts
        )
        if not self.is_5b:
            return pipe
        parts = pipe.components | {"vae": tiny_residual_vae()}
        pipe = WanPipeline(**parts, expand_timesteps=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe


MODELS = {
    "UniPC": Model(),
    "Euler": Model(scheduler="Euler"),
    "UniPC, second shape": Model(SECOND),
    "Euler, second shape": Model(SECOND, scheduler="Euler"),
    "without guidance": Model(more={"guidance_scale": 1.0, "negative_prompt": ""}),
    "two experts, UniPC": Model(two_experts=True, more={"guidance_scale_2": 2.0}),
    "two experts, Euler, second shape": Model(
        SECOND, scheduler="Euler", two_experts=True, more={"guidance_scale_2": 2.0}
    ),
    "two experts, one guidance": Model(two_experts=True),
    "layout of 5B": Model(is_5b=True, more={"width": 64}),
}


@dataclass(frozen=True)
class Expected:
    """What diffusers made of that noise: latents [C, F, H, W], levels [P, H, W, 3]."""

    latents: torch.Tensor
    levels: torch.Tensor


def expect(model: Model, pipe: Any, noise_LCHW: torch.Tensor) -> Expected:
    steps = []

    def keep(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(tensors["latents"][0].clone())
        return {}

    video = pipe(
        "a b c",
        **model.call(),
        latents=noise_LCHW.transpose(0, 1)[None],
        output_type="np",
        callback_on_step_end=keep,
    ).frames[0]
    return Expected(steps[-1], torch.from_numpy(video * 255).round())


def noise_for(model: Model, directory: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """Unit noise [L, C, H, W], and the options of a run that starts from it."""
    call, ratio = model.call(), 16 if model.is_5b else 8
    shape = (LATENT_FRAMES, 4, call["height"] // ratio, call["width"] // ratio)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    file = directory / "noise.safetensors"
    save_file({"latents": noise}, file)
    return noise, {**call, "initial_latents": file, "local_frames": LATENT_FRAMES}


def run_on_ranks(
    size: int, make: Callable[[], Any], options: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our latents [C, F, H, W] and levels [P, H, W, 3], on uneven clips.

    make  a pipeline, for every rank its own
    """
    case = Case(options=options, clip_lengths=CLIP_LENGTHS)

    def work(comm: Communicator, adapter: Adapter) -> tuple[torch.Tensor, list[torch.Tensor]]:
        run = run_of(case, comm, adapter)
        pieces: list[torch.Tensor] = []
        latents = run.denoise()
        run.deliver_frames(latents, pieces.append)
        return latents[0], pieces

    results = on_threads(size, lambda rank: adapter_of(make()), work)
    return torch.cat([latents for latents, _ in results], 1), torch.cat(results[0][1])


@pytest.mark.parametrize("name", MODELS)
def test_equals_diffusers_pipeline(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    noise, options = noise_for(model, tmp_path)
    expected = expect(model, model.pipe(), noise)
    for size in CLIP_LENGTHS:
        latents, levels = run_on_ranks(size, model.pipe, options)
        assert relative_difference(latents, expected.latents) < TOLERANCE
        assert levels.shape == expected.levels.shape == (NUM_FRAMES, *levels.shape[1:])
        assert float((levels.float() - expected.levels).abs().max()) <= 1
        assert levels.float().std() > 8, "a flat picture proves nothing"


def test_two_experts_cross_their_boundary() -> None:
    """Or the cases above prove nothing of it."""
    for make in SCHEDULERS.values():
        scheduler = make()
        scheduler.set_timesteps(CALL["num_inference_steps"])
        assert min(scheduler.timesteps) < 875 < max(scheduler.timesteps)


def test_fails_with_the_first_expert_alone(tmp_path: Path) -> None:
    model = MODELS["two experts, UniPC"]
    noise, options = noise_for(model, tmp_path)
    expected = expect(model, model.pipe(), noise)

    def first_twice() -> Any:
        pipe = model.pipe()
        pipe.transformer_2 = copy.deepcopy(pipe.transformer)
        return pipe

    latents, _ = run_on_ranks(1, first_twice, options)
    assert relative_difference(latents, expected.latents) > WRONG_IS_BEYOND


def test_fails_with_the_first_guidance_scale_alone(tmp_path: Path) -> None:
    model = MODELS["two experts, UniPC"]
    noise, options = noise_for(model, tmp_path)
    expected = expect(model, model.pipe(), noise)
    latents, _ = run_on_ranks(1, model.pipe, {**options, "guidance_scale_2": None})
    assert relative_difference(latents, expected.latents) > WRONG_IS_BEYOND


@pytest.fixture(scope="module", params=TRANSFORMERS)
def video(request: pytest.FixtureRequest) -> tuple[str, torch.Tensor, torch.Tensor]:
    """A noisy video [B, C, F, H, W], and the unmodified transformer's prediction for it."""
    z_BCFHW = torch.randn(2, 4, LATENT_FRAMES, 8, 4, generator=torch.Generator().manual_seed(0))
    return request.param, z_BCFHW, predict_whole(z_BCFHW, request.param)


def difference(size: int, video: tuple[str, torch.Tensor, torch.Tensor]) -> float:
    """Of one pass on that many ranks from the unmodified transformer's."""
    transformer, z_BCFHW, expected = video
    plan = Plan(clips_of_lengths(CLIP_LENGTHS[size]), Scopes(LATENT_FRAMES, 0))
    return relative_difference(predict_on_ranks(plan, z_BCFHW, transformer), expected)


@pytest.mark.parametrize("size", CLIP_LENGTHS)
def test_one_pass_equals_the_unmodified_transformer(
    size: int, video: tuple[str, torch.Tensor, torch.Tensor]
) -> None:
    assert difference(size, video) < TOLERANCE


def test_fails_without_the_exchange(
    video: tuple[str, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "attention_transfers", lambda self: ())
    assert difference(2, video) > WRONG_IS_BEYOND


class PlacedBy:
    """A rotary embedding that puts each frame elsewhere in time."""

    def __init__(self, rotary: Any, place: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.trained_frames, self._rotary, self._place = rotary.trained_frames, rotary, place

    def time_table(self, position: torch.Tensor) -> Any:
        return self._rotary.time_table(self._place(position))


def lay_out_wrongly(
    monkeypatch: pytest.MonkeyPatch, place: Callable[[Plan, torch.Tensor], torch.Tensor]
) -> None:
    lay_out = layers.lay_out_frames

    def wrong(plan: Plan, clip: Clip, key_frames: Any, rotary: Any, *rest: Any) -> FrameLayout:
        placed = PlacedBy(rotary, lambda position: place(plan, position))
        return lay_out(plan, clip, key_frames, placed, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(layers, "lay_out_frames", wrong)


def test_fails_when_positions_restart_with_every_clip(
    video: tuple[str, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarted(plan: Plan, position: torch.Tensor) -> torch.Tensor:
        starts = torch.tensor([clip.start for clip in plan.clips for _ in clip.frames])
        return position - starts[position.long()]

    lay_out_wrongly(monkeypatch, restarted)
    assert difference(1, video) < TOLERANCE, "one clip starts at frame 0"
    assert difference(2, video) > WRONG_IS_BEYOND


def test_fails_without_positions_in_time(
    video: tuple[str, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out_wrongly(monkeypatch, lambda _, position: torch.zeros_like(position))
    assert difference(1, video) > WRONG_IS_BEYOND


def test_positions_count_by_their_differences_alone(
    video: tuple[str, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why any span of a long video may stand where it stands."""
    lay_out_wrongly(monkeypatch, lambda _, position: position + 5000)
    assert difference(2, video) < TOLERANCE


def test_fails_with_zero_filled_ends(
    video: tuple[str, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero keys and values for frames before the first and after the last, as not masked."""
    attend = frame_layers.dual_scope_frame_attention

    def zero_filled(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_table: Any, blocks: Any, **rest: Any
    ) -> torch.Tensor:
        pad, every = torch.zeros_like(k[:, :4]), slice(0, k.shape[1] + 4)
        table = tuple(torch.cat((part, part[:4])) for part in key_table)
        wrong = [FrameBlock(block.start, block.stop, every) for block in blocks]
        return attend(q, torch.cat((k, pad), 1), torch.cat((v, pad), 1), table, wrong, **rest)

    monkeypatch.setattr(frame_layers, "dual_scope_frame_attention", zero_filled)
    assert difference(2, video) > WRONG_IS_BEYOND


def test_fails_when_every_frame_is_told_the_negative_prompt(
    video: tuple[str, torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branches of the guidance read texts of their own."""
    runs = FrameText.runs.func  # type: ignore[attr-defined]
    monkeypatch.setattr(
        FrameText,
        "runs",
        property(lambda text: [(0, start, stop) for _, start, stop in runs(text)]),
    )
    assert difference(2, video) > WRONG_IS_BEYOND
