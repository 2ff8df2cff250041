"""Loading models in the layouts that users have, compared with diffusers and peft."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from tests.tiny import (
    UNETS,
    save_tiny_model,
    save_videocrafter2_denoiser,
    tiny_pipe,
    tiny_unet,
)
from video_infinity.adapters import inspect_model, load_model, trace_model
from video_infinity.adapters.components import prefer_channels_last, reading_text
from video_infinity.adapters.lora import merge_lora
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import SingleCommunicator
from video_infinity.config import ModelSpec
from video_infinity.context.chunks import Chunks, ChunkStream
from video_infinity.context.text import FrameText
from video_infinity.errors import ModelError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny model")


def spec(model: Path, **more: Any) -> ModelSpec:
    return ModelSpec(str(model), device="cpu", **more)


def predict(adapter: Any) -> torch.Tensor:
    z = torch.linspace(-1, 1, 4 * 3 * 16).view(1, 4, 3, 4, 4)
    text = FrameText(torch.linspace(-1, 1, 32).view(1, 2, 16), ((0, 0, 0),))
    with torch.inference_mode():
        return adapter.denoise(z, torch.tensor(3), text)  # type: ignore[no-any-return]


def decode(adapter: Any, z_CFHW: torch.Tensor, chunk_frames: int, **how: Any) -> torch.Tensor:
    """All pictures of a video, decoded chunk by chunk on one rank."""
    chunks = Chunks(z_CFHW.shape[1], chunk_frames)
    stream, pictures = ChunkStream(SingleCommunicator(), chunks), []
    with adapter.decoding(stream, **({"tiled": False} | how)) as decoded:
        for index in range(len(chunks)):
            stream.begin(index)
            pictures.append(decoded(z_CFHW[:, chunks[index].start : chunks[index].stop]))
    return torch.cat(pictures)


def test_a_directory_loads_as_what_was_saved(model: Path) -> None:
    loaded, built = load_model(spec(model)), adapter_of(tiny_pipe())
    torch.testing.assert_close(predict(loaded), predict(built))
    torch.testing.assert_close(loaded.encode(["a b"]), built.encode(["a b"]))
    assert not loaded.unet.training  # type: ignore[attr-defined]


def test_text_is_what_diffusers_encodes(model: Path) -> None:
    pipe = tiny_pipe()
    expected, negative = pipe.encode_prompt("a b", torch.device("cpu"), 1, True, "c")
    ours = load_model(spec(model)).encode(["c", "a b"])
    torch.testing.assert_close(ours, torch.cat((negative, expected)))


def test_pictures_are_what_diffusers_decodes(model: Path) -> None:
    pipe = tiny_pipe()
    z = torch.randn(1, 4, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        video = pipe.decode_latents(z)
        expected = pipe.video_processor.postprocess_video(video=video, output_type="np")[0]
        ours = decode(load_model(spec(model)), z[0], chunk_frames=2)
    assert ours.dtype == torch.uint8
    assert abs(ours.numpy() / 255.0 - expected).max() <= 0.5 / 255 + 1e-5


def test_a_tiled_picture_is_what_diffusers_tiles_and_the_setting_is_put_back() -> None:
    pipe = tiny_pipe()
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 8, 16
    z = torch.randn(1, 4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    adapter = adapter_of(pipe)
    tiled, whole = (decode(adapter, z[0], 2, tiled=tiled) for tiled in (True, False))
    assert not pipe.vae.use_tiling
    assert not torch.equal(tiled, whole)
    pipe.vae.enable_tiling()
    with torch.inference_mode():
        video = pipe.decode_latents(z)
        expected = pipe.video_processor.postprocess_video(video=video, output_type="np")[0]
    assert abs(tiled.numpy() / 255.0 - expected).max() <= 0.5 / 255 + 1e-5
    assert torch.equal(decode(adapter, z[0], 2), tiled), "a pipeline that tiles goes on to"


def test_a_rank_that_reads_no_text_denoises_and_decodes_alike(model: Path) -> None:
    reader, other = (load_model(spec(model), reads_text=reads) for reads in (True, False))
    assert torch.equal(predict(other), predict(reader))
    z_CFHW = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decode(other, z_CFHW, 2), decode(reader, z_CFHW, 2))
    assert other.text_encoder is other.tokenizer is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", UNETS)
def test_sites_are_all_there_are(name: str) -> None:
    """Every layer that mixes frames is declared: with all of them in place of an identity, a
    frame no longer sees another."""
    adapter = adapter_of(tiny_pipe(name))
    sites = adapter.sites()
    for attention in sites.attention:
        attention.set_processor(_own_value)
    for site in sites.convs:
        setattr(site.parent, site.attribute, torch.nn.Identity())
    for site in sites.norms:
        setattr(site.parent, site.attribute, torch.nn.Identity())
    sample = UNETS[name]["sample_size"]
    rows, columns = (sample, sample) if isinstance(sample, int) else sample
    z = torch.randn(1, 4, 4, rows, columns, generator=torch.Generator().manual_seed(0))
    changed = z.clone()
    changed[:, :, 2] += 1.0
    text = FrameText(torch.zeros(1, 2, 16), ((0,) * 4,))
    with torch.inference_mode():
        a, b = (adapter.denoise(x, torch.tensor(9), text) for x in (z, changed))
    torch.testing.assert_close(a[:, :, [0, 1, 3]], b[:, :, [0, 1, 3]])
    assert not torch.allclose(a[:, :, 2], b[:, :, 2])


def _own_value(attn: Any, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
    return hidden_states


def test_videocrafter2_layout(model: Path, tmp_path: Path) -> None:
    """A denoiser alone with an fps embedding, beside another repository's other parts."""
    denoiser = save_videocrafter2_denoiser(tmp_path / "vc2")
    at_8, at_24, by_default = (
        predict(load_model(spec(model, unet=str(denoiser), fps_condition=fps)))
        for fps in (8, 24, None)
    )
    plain = predict(load_model(spec(model)))
    torch.testing.assert_close(at_24, by_default)
    assert not torch.allclose(at_8, at_24)
    assert not torch.allclose(plain, at_24)


def test_fps_embedding_adds_to_the_time_embedding(model: Path, tmp_path: Path) -> None:
    denoiser = save_videocrafter2_denoiser(tmp_path / "vc2")
    file = denoiser / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    for key in state:
        if key.startswith("fps_embedding.linear_2"):
            state[key] = torch.zeros_like(state[key])
    save_file(state, file, metadata={"format": "pt"})
    silenced = load_model(spec(model, unet=str(denoiser), fps_condition=8))
    torch.testing.assert_close(predict(silenced), predict(load_model(spec(model))))


def test_fps_condition_without_an_fps_embedding_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="takes no frame rate"):
        inspect_model(spec(model, fps_condition=8))


def test_lora_equals_peft(tmp_path: Path) -> None:
    plain = tiny_unet()
    targets = ["to_q", "to_v", "proj_in", "conv1"]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=[*targets[:3], r"temp_convs.0.conv1.2"])
    wrapped = inject_adapter_in_model(config, copy.deepcopy(plain)).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.full_like(parameter, 0.05)
    state = get_peft_model_state_dict(wrapped)
    stems = {key.rsplit(".lora_", 1)[0] for key in state}
    alphas = {f"unet.{stem}.alpha": torch.tensor(6.0) for stem in stems}
    lora = {f"unet.{k}": v.contiguous() for k, v in state.items()}
    save_file(lora | alphas, tmp_path / "lora.safetensors")
    merged = copy.deepcopy(plain)
    count = merge_lora(merged, tmp_path)
    z, text = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 2, 16)
    with torch.inference_mode():
        ours, peft, before = (
            unet(z, torch.tensor(5), text).sample for unet in (merged, wrapped, plain)
        )
    assert count == len(stems) > 10
    torch.testing.assert_close(ours, peft, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, before, atol=1e-3)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no low-rank update"),
        ({"unet.nowhere.lora_A.weight": (2, 4), "unet.nowhere.lora_B.weight": (4, 2)}, "no weight"),
        ({"unet.conv_in.lora_A.weight": (2, 4), "unet.conv_in.lora_B.weight": (4, 2)}, "not fit"),
        ({"unet.conv_in.lora_A.weight": (2, 4)}, "no pair"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(
    tensors: dict[str, tuple[int, int]], message: str, tmp_path: Path
) -> None:
    save_file({k: torch.zeros(v) for k, v in tensors.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=message):
        merge_lora(tiny_unet(), tmp_path)


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["conv_out.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*conv_out"):
        load_model(spec(model))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    config = model / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"out_channels": 8}))
    with pytest.raises(ModelError, match="does not load as UNet3DConditionModel"):
        load_model(spec(model))


def test_half_precision_variant_is_found(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    for part, kind in (("unet", UNet3DConditionModel), ("vae", AutoencoderKL)):
        loaded = kind.from_pretrained(model / part).half()
        (model / part / "diffusion_pytorch_model.safetensors").unlink()
        loaded.save_pretrained(model / part, variant="fp16")
    adapter = load_model(spec(model, dtype="float32"))
    assert adapter.dtype == torch.float32
    reference = predict(adapter_of(tiny_pipe()))
    torch.testing.assert_close(predict(adapter), reference, rtol=0.05, atol=0.05)


def test_channels_last_weights_are_the_same_model() -> None:
    """As on a GPU; weights of three-dimensional convolutions keep their own format."""
    adapter = adapter_of(tiny_pipe())
    expected = predict(adapter)
    prefer_channels_last(adapter.unet)
    weights = [m.weight for m in adapter.unet.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert any(w.shape[2] > 1 and not w.is_contiguous() for w in weights)
    torch.testing.assert_close(predict(adapter), expected, rtol=1e-4, atol=1e-5)


def test_the_footprint_is_traced_without_weights(model: Path) -> None:
    given = spec(model)
    facts = inspect_model(given)
    small, large = (trace_model(given, facts, size, size) for size in (8, 16))
    assert large.attention_values == 4 * small.attention_values
    assert large.conv_values == 4 * small.conv_values
    assert large.moment_values == small.moment_values > 0
    unet, pipe = tiny_unet(), tiny_pipe()

    def weights(*parts: torch.nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters())

    assert small.num_weights == weights(unet, pipe.vae)
    assert small.num_text_weights == weights(pipe.text_encoder)


def test_a_pipeline_of_another_family_is_refused() -> None:
    class Other:
        unet = torch.nn.Linear(1, 1)

    with pytest.raises(ModelError, match="a pipeline with a Linear cannot be driven"):
        adapter_of(Other())


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: torch.ones(2, 3) @ torch.ones(2, 3),
        lambda: torch.ones(2)[torch.tensor(9)],
        lambda: torch.ones(2, 3).view(4),
    ],
)
def test_a_text_encoder_that_does_not_fit_its_tokenizer_is_the_models_fault(refuse: Any) -> None:
    says = r"the text encoder of x .* fetch or save the model again"
    with pytest.raises(ModelError, match=says), reading_text("x"):
        refuse()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_a_device_says_while_it_reads_text_is_not(error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))) as caught, reading_text("x"):
        raise error
    assert caught.value is error
