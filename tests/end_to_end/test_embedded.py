"""The embedded models: the same pictures as diffusers on the short case, and inside the package."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from tests.distributed.harness import TOLERANCE, on_threads, relative_difference
from video_infinity.adapters import Adapter, ModelFacts, inspect_model
from video_infinity.adapters.registry import EMBEDDED_MODEL, EMBEDDED_WAN, PRESETS, adapter_of
from video_infinity.comm import Communicator
from video_infinity.config import ModelSpec, Request
from video_infinity.engine import ClipRun
from video_infinity.errors import ConfigError
from video_infinity.noise import initial_noise
from video_infinity.pipeline import as_timeline
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent

PROMPT = "a red seven moving left on a navy background"
CALL = {"num_inference_steps": 4, "guidance_scale": 4.0, "height": 64, "width": 64}
LARGEST_BYTES = 30_000_000


@dataclass(frozen=True)
class Model:
    """One of the two, and the short case on it.

    options  what makes its local scope the whole timeline
    call     what diffusers' pipeline is told beside
    """

    name: str
    directory: Path
    title: str
    num_frames: int
    latent_frames: int
    options: Mapping[str, Any]
    call: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> ModelFacts:
        return inspect_model(ModelSpec(self.name))

    def pipe(self) -> Any:
        loaded = DiffusionPipeline.from_pretrained(self.directory, use_safetensors=True)
        loaded.set_progress_bar_config(disable=True)
        return loaded

    def noise(self) -> torch.Tensor:
        """[1, C, L, H, W]."""
        return initial_noise(0, range(self.latent_frames), self.facts().latent_shape_CHW(64, 64))


MODELS = (
    Model(
        "demo",
        EMBEDDED_MODEL,
        "# The embedded model",
        num_frames=16,
        latent_frames=16,
        options={"local_frames": 15, "local_bias": 0.0, "global_bias": 0.0, "eta": 0.0},
    ),
    Model(
        "demo-wan",
        EMBEDDED_WAN,
        "# The second embedded model",
        num_frames=21,
        latent_frames=6,
        options={"local_frames": 6, "global_frames": 0},
        call={"negative_prompt": ""},
    ),
)


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> Model:
    chosen: Model = request.param
    return chosen


@pytest.fixture(scope="module")
def pipe(model: Model) -> Any:
    return model.pipe()


@pytest.fixture(scope="module")
def expected(model: Model, pipe: Any) -> torch.Tensor:
    """[C, L, H, W]."""
    latents: torch.Tensor = pipe(
        PROMPT,
        num_frames=model.num_frames,
        latents=model.noise(),
        output_type="latent",
        **CALL,
        **model.call,
    ).frames[0]
    return latents


@pytest.mark.parametrize("size", [1, 2, 3])
def test_short_case_is_the_diffusers_pipeline(
    size: int, model: Model, pipe: Any, expected: torch.Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "noise.safetensors"
    save_file({"latents": model.noise()[0].transpose(0, 1).contiguous()}, file)
    request = Request.from_options(
        as_timeline(PROMPT, None),
        {
            "model": model.name,
            "num_frames": model.num_frames,
            "initial_latents": file,
            **CALL,
            **model.options,
        },
    )

    def denoise(comm: Communicator, adapter: Adapter) -> torch.Tensor:
        prepared = prepare(request, adapter.facts, comm.size)
        plan = make_plan(prepared, adapter.facts, comm.size)
        return ClipRun(prepared, adapter, comm, plan, silent).denoise()[0]

    parts = on_threads(size, lambda rank: adapter_of(copy.deepcopy(pipe)), denoise)
    assert relative_difference(torch.cat(parts, 1), expected) < TOLERANCE


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_weights_are_in_the_package_and_small(model: Model) -> None:
    package = Path(str(files("video_infinity")))
    assert model.directory.is_relative_to(package)
    assert PRESETS[model.name].base == str(model.directory)
    sizes = [file.stat().st_size for file in model.directory.rglob("*") if file.is_file()]
    assert 0 < sum(sizes) <= LARGEST_BYTES
    card = (model.directory / "README.md").read_text()
    assert f"\n{model.title}" in card
    assert "{" not in card, "a placeholder was left in the card"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_both_know_frames_and_one_vocabulary(model: Model) -> None:
    facts = model.facts()
    assert facts.knows_frames
    assert facts.frame_timesteps
    assert facts.vocabulary == inspect_model(ModelSpec()).vocabulary


def test_the_first_alone_draws_noise_at_every_step() -> None:
    assert [inspect_model(ModelSpec(model.name)).defaults.eta for model in MODELS] == [1.0, 0.0]


def test_the_second_is_a_small_wan() -> None:
    facts = inspect_model(ModelSpec("demo-wan"))
    assert facts.family == "wan"
    assert facts.defaults.trained_frames == 13
    assert facts.latent_shape_CHW(64, 64) == (16, 8, 8)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_another_size_is_refused(model: Model) -> None:
    request = Request.from_options(
        as_timeline(PROMPT, None), {"model": model.name, "height": 128, "width": 128}
    )
    with pytest.raises(ConfigError, match="64 by 64 alone"):
        prepare(request, model.facts(), 1)
