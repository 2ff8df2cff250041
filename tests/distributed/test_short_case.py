"""Promise 3: a local scope over the whole timeline is the unmodified diffusers pipeline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file

from tests.distributed.harness import (
    TOLERANCE,
    around,
    forward_on,
    on_threads,
    relative_difference,
)
from tests.tiny import FIRST, UNETS, tiny_pipe, tiny_unet
from video_infinity.adapters import Adapter
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator
from video_infinity.config import Request
from video_infinity.context import attention, layers
from video_infinity.engine import ClipRun
from video_infinity.pipeline import as_timeline
from video_infinity.plan import Plan, Scopes, clips_of_lengths
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent

NUM_FRAMES = 11
WRONG_IS_BEYOND = 1e-2
"""What a wrong formula must exceed, a hundred times the tolerance."""


@pytest.mark.parametrize("unet", UNETS)
def test_equals_diffusers_pipeline(unet: str, tmp_path: Path) -> None:
    pipe = tiny_pipe(unet)
    pipe.set_progress_bar_config(disable=True)
    facts = adapter_of(pipe).facts
    rows, columns = (facts.defaults.height, facts.defaults.width)
    noise = torch.randn(1, *facts.latent_shape_CHW(rows, columns), generator=_seeded())
    noise = noise.repeat(NUM_FRAMES, 1, 1, 1) + torch.randn(
        NUM_FRAMES, *noise.shape[1:], generator=_seeded(1)
    )
    save_file({"latents": noise}, tmp_path / "noise.safetensors")
    expected = pipe(
        "a b c",
        num_frames=NUM_FRAMES,
        height=rows,
        width=columns,
        num_inference_steps=3,
        guidance_scale=3.0,
        negative_prompt="d",
        latents=noise.transpose(0, 1)[None],
        output_type="latent",
    ).frames[0]
    options = {
        "num_frames": NUM_FRAMES,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "negative_prompt": "d",
        "local_frames": NUM_FRAMES,
        "initial_latents": tmp_path / "noise.safetensors",
    }
    request = Request.from_options(as_timeline("a b c", None), options)
    for size in (1, 2, 3):
        parts = on_threads(
            size,
            lambda rank: adapter_of(copy.deepcopy(pipe)),
            lambda comm, adapter: _denoise(comm, adapter, request),
        )
        assert relative_difference(torch.cat(parts, 1), expected) < TOLERANCE


def _denoise(comm: Communicator, adapter: Adapter, request: Request) -> torch.Tensor:
    prepared = prepare(request, adapter.facts, comm.size)
    plan = make_plan(prepared, adapter.facts, comm.size)
    return ClipRun(prepared, adapter, comm, plan, silent).denoise()[0]


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    """A noisy video [B, C, F, H, W], and the unmodified denoiser's prediction for it."""
    z_BCFHW = torch.randn(2, 4, NUM_FRAMES, 4, 4, generator=_seeded())
    text_BSD = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16)
    unet = (
        tiny_unet()
    )  # outside: a Linear's order of sums can depend on whether weights want gradients
    with torch.inference_mode():
        return z_BCFHW, unet(z_BCFHW, torch.tensor(500), text_BSD).sample


def _spread(size: int, z_BCFHW: torch.Tensor, plan: Plan | None = None) -> torch.Tensor:
    lengths = {1: (11,), 2: (4, 7), 3: (1, 7, 3)}[size]
    plan = plan or Plan(clips_of_lengths(lengths), Scopes(NUM_FRAMES, 0))
    return _pass([tiny_unet() for _ in range(size)], plan, z_BCFHW)


def _pass(unets: list[Any], plan: Plan, z_BCFHW: torch.Tensor) -> torch.Tensor:
    """One pass over the whole video, each rank with a denoiser of its own."""
    parts = on_threads(
        len(unets),
        lambda rank: around(unets[rank]),
        lambda comm, adapter: forward_on(comm, adapter, plan, z_BCFHW),
    )
    return torch.cat(parts, 2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_one_pass_equals_the_unmodified_model(
    size: int, clip: tuple[torch.Tensor, torch.Tensor]
) -> None:
    z_BCFHW, expected = clip
    assert relative_difference(_spread(size, z_BCFHW), expected) < TOLERANCE


def test_fails_without_the_convolution_halo(
    clip: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_BCFHW, expected = clip
    monkeypatch.setattr(Plan, "halo_transfers", lambda self, halo_frames: ())
    assert relative_difference(_spread(2, z_BCFHW), expected) > WRONG_IS_BEYOND


def test_fails_with_group_norm_local_to_a_rank(
    clip: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_BCFHW, expected = clip
    monkeypatch.setattr(
        layers, "merge_moments", lambda count, mean_RNG, var_RNG: (mean_RNG[0], var_RNG[0])
    )
    assert relative_difference(_spread(2, z_BCFHW), expected) > WRONG_IS_BEYOND


def test_fails_with_an_average_of_variances(
    clip: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_BCFHW, expected = clip
    z_BCFHW = z_BCFHW + torch.linspace(-3, 3, NUM_FRAMES).view(1, 1, -1, 1, 1)
    text_BSD = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16)
    with torch.inference_mode():
        expected = tiny_unet()(z_BCFHW, torch.tensor(500), text_BSD).sample
    assert relative_difference(_spread(2, z_BCFHW), expected) < TOLERANCE
    monkeypatch.setattr(
        layers,
        "merge_moments",
        lambda count, mean_RNG, var_RNG: (mean_RNG.mean(0), var_RNG.mean(0)),
    )
    assert relative_difference(_spread(2, z_BCFHW), expected) > TOLERANCE


def test_fails_with_zero_filled_ends(
    clip: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero keys and values for frames before the first and after the last, as not masked."""
    z_BCFHW, expected = clip
    attend = attention.attend

    def zero_filled(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, scale: float
    ) -> Any:
        assert mask is None
        pad = torch.zeros_like(k[:, :4])
        return attend(q, torch.cat((k, pad), 1), torch.cat((v, pad), 1), None, scale)

    monkeypatch.setattr(attention, "attend", zero_filled)
    assert relative_difference(_spread(2, z_BCFHW), expected) > WRONG_IS_BEYOND


def test_fails_without_the_attention_exchange(
    clip: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_BCFHW, expected = clip
    monkeypatch.setattr(Plan, "attention_transfers", lambda self: ())
    assert relative_difference(_spread(2, z_BCFHW), expected) > WRONG_IS_BEYOND


def test_convolutions_that_peft_has_wrapped_are_called_as_they_are(
    clip: tuple[torch.Tensor, torch.Tensor],
) -> None:
    z_BCFHW, plain = clip

    def wrapped_unet() -> Any:
        config = LoraConfig(r=2, target_modules=r".*temp_convs\.0\.(conv1\.2|conv[234]\.3)")
        unet = inject_adapter_in_model(config, tiny_unet()).eval()
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                parameter.data = torch.full_like(parameter, 0.1)
        return unet

    plan = Plan(clips_of_lengths((4, 7)), Scopes(NUM_FRAMES, 0))
    ours = _pass([wrapped_unet(), wrapped_unet()], plan, z_BCFHW)
    text_BSD = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16)
    with torch.inference_mode():
        expected = wrapped_unet()(z_BCFHW, torch.tensor(500), text_BSD).sample
    assert relative_difference(ours, expected) < TOLERANCE
    assert relative_difference(expected, plain) > WRONG_IS_BEYOND


def test_the_model_is_itself_again_afterwards(clip: tuple[torch.Tensor, torch.Tensor]) -> None:
    z_BCFHW, expected = clip
    unet = tiny_unet(FIRST)
    names = [name for name, _ in unet.named_modules()]
    processors = list(unet.attn_processors.values())
    plan = Plan(clips_of_lengths((4, 7)), Scopes(2, 1))
    _pass([unet, tiny_unet()], plan, z_BCFHW)
    text_BSD = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16)
    with torch.inference_mode():
        again = unet(z_BCFHW, torch.tensor(500), text_BSD).sample
    assert torch.equal(again, expected)
    assert [name for name, _ in unet.named_modules()] == names
    assert all(a is b for a, b in zip(unet.attn_processors.values(), processors, strict=True))


def test_the_model_is_itself_again_after_an_error(
    clip: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    z_BCFHW, expected = clip
    unet = tiny_unet()
    plan = Plan(clips_of_lengths((NUM_FRAMES,)), Scopes(2, 1))

    def broken(*_: Any) -> Any:
        raise RuntimeError("in the middle of a layer")

    monkeypatch.setattr(layers, "merge_moments", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        _pass([unet], plan, z_BCFHW)
    text_BSD = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16)
    with torch.inference_mode():
        assert torch.equal(unet(z_BCFHW, torch.tensor(500), text_BSD).sample, expected)
