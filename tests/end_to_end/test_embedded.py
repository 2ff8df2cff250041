"""The embedded model: the same pictures as diffusers on the short case, and inside the package."""

from __future__ import annotations

import copy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import TextToVideoSDPipeline
from safetensors.torch import save_file

from tests.distributed.harness import TOLERANCE, on_threads, relative_difference
from video_infinity.adapters import Adapter, inspect_model
from video_infinity.adapters.registry import EMBEDDED_MODEL, adapter_of
from video_infinity.comm import Communicator
from video_infinity.config import ModelSpec, Request
from video_infinity.engine import ClipRun, make_plan
from video_infinity.errors import ConfigError
from video_infinity.noise import initial_noise
from video_infinity.pipeline import as_timeline
from video_infinity.preflight import prepare
from video_infinity.progress import silent

PROMPT = "a red seven moving left on a navy background"
NUM_FRAMES, STEPS, GUIDANCE = 16, 4, 4.0
LARGEST_BYTES = 30_000_000


@pytest.fixture(scope="module")
def pipe() -> Any:
    loaded = TextToVideoSDPipeline.from_pretrained(EMBEDDED_MODEL, use_safetensors=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return initial_noise(0, range(NUM_FRAMES), adapter_shape())


def adapter_shape() -> tuple[int, int, int]:
    facts = inspect_model(ModelSpec())
    return facts.latent_shape_CHW(facts.defaults.height, facts.defaults.width)


@pytest.fixture(scope="module")
def expected(pipe: Any, noise: torch.Tensor) -> torch.Tensor:
    latents: torch.Tensor = pipe(
        PROMPT,
        num_frames=NUM_FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise.clone(),
        output_type="latent",
    ).frames[0]
    return latents


@pytest.mark.parametrize("size", [1, 2, 3])
def test_short_case_is_the_diffusers_pipeline(
    size: int, pipe: Any, noise: torch.Tensor, expected: torch.Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "noise.safetensors"
    save_file({"latents": noise[0].transpose(0, 1).contiguous()}, file)
    request = Request.from_options(
        as_timeline(PROMPT, None),
        {
            "num_frames": NUM_FRAMES,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "local_frames": NUM_FRAMES - 1,
            "local_bias": 0.0,
            "global_bias": 0.0,
            "height": pipe.unet.config.sample_size * pipe.vae_scale_factor,
            "width": pipe.unet.config.sample_size * pipe.vae_scale_factor,
            "initial_latents": file,
        },
    )

    def denoise(comm: Communicator, adapter: Adapter) -> torch.Tensor:
        prepared = prepare(request, adapter.facts, comm.size)
        plan = make_plan(prepared, adapter.facts, comm.size)
        return ClipRun(prepared, adapter, comm, plan, silent).denoise()[0]

    parts = on_threads(size, lambda rank: adapter_of(copy.deepcopy(pipe)), denoise)
    assert relative_difference(torch.cat(parts, 1), expected) < TOLERANCE


def test_the_weights_are_in_the_package_and_small() -> None:
    inside = Path(str(files("video_infinity"))) / "demo" / "model"
    assert inside == EMBEDDED_MODEL
    sizes = [file.stat().st_size for file in inside.rglob("*") if file.is_file()]
    assert 0 < sum(sizes) <= LARGEST_BYTES
    card = (inside / "README.md").read_text()
    assert "\n# The embedded model" in card
    assert "{" not in card, "a placeholder was left in the card"


def test_another_size_is_refused() -> None:
    request = Request.from_options(as_timeline(PROMPT, None), {"height": 128, "width": 128})
    with pytest.raises(ConfigError, match="64 by 64 alone"):
        prepare(request, inspect_model(ModelSpec()), 1)
