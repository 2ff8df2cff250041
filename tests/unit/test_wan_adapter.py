"""Loading and driving Wan in the layouts that users have, compared with diffusers and peft."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from diffusers.models.attention_dispatch import attention_backend
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from tests.distributed.harness import TOLERANCE, on_threads, relative_difference
from tests.distributed.wan_harness import PROMPTS_OVER_TIME, WRONG_IS_BEYOND, Case, run_of
from tests.tiny_wan import (
    TRANSFORMERS,
    save_tiny_wan,
    tiny_transformer,
    tiny_wan_pipe,
)
from video_infinity.adapters import (
    Adapter,
    inspect_model,
    load_model,
    trace_model,
    wan,
    wan_attention,
)
from video_infinity.adapters.footprint import Workload, trace
from video_infinity.adapters.registry import adapter_of
from video_infinity.adapters.wan_rotary import WanRotary
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.config import ModelSpec
from video_infinity.context.chunks import Chunks, ChunkStream
from video_infinity.context.frame_layers import DualScopeFrameProcessor
from video_infinity.context.install import installed
from video_infinity.context.layers import BiasSchedule, ClipContext
from video_infinity.context.text import FrameText
from video_infinity.errors import ModelError
from video_infinity.plan import Plan, Scopes, split_timeline
from video_infinity.timeline import PromptTimeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_wan(tmp_path_factory.mktemp("models") / "tiny wan")


@pytest.fixture(scope="module")
def two_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_wan(tmp_path_factory.mktemp("models") / "experts", two_experts=True)


def spec(model: Path, **more: Any) -> ModelSpec:
    return ModelSpec(str(model), device="cpu", **more)


Z_BCFHW = torch.randn(1, 4, 5, 8, 4, generator=torch.Generator().manual_seed(0))
TEXT_BSD = torch.linspace(-1, 1, 3 * 16).view(1, 3, 16)


def predict(adapter: Adapter, timestep: int = 500) -> torch.Tensor:
    """One pass over a short video through the sites, on one rank."""
    frames = Z_BCFHW.shape[2]
    text = FrameText(TEXT_BSD, ((0,) * frames,))
    plan = Plan(split_timeline(frames, 1), Scopes(frames, 0))
    context = ClipContext(SingleCommunicator(), plan, text)
    with torch.inference_mode(), installed(adapter.sites(), context):
        return adapter.denoise(Z_BCFHW, torch.tensor(timestep), text)


def predict_by_itself(transformer: Any) -> torch.Tensor:
    with torch.inference_mode():
        return transformer(Z_BCFHW, torch.tensor([500]), TEXT_BSD, return_dict=False)[0]  # type: ignore[no-any-return]


# Loading.


def test_a_directory_loads_as_what_was_saved(model: Path) -> None:
    loaded: Any = load_model(spec(model))
    built: Any = adapter_of(tiny_wan_pipe())
    torch.testing.assert_close(predict(loaded), predict(built))
    torch.testing.assert_close(loaded.encode(["a b"]), built.encode(["a b"]))
    assert not loaded.experts[0].training


def test_facts_are_read_before_weights(model: Path, two_experts: Path) -> None:
    facts = inspect_model(spec(model))
    assert (facts.family, facts.frames_per_latent, facts.latent_channels) == ("wan", 4, 4)
    assert (facts.pixels_per_latent, facts.size_multiple) == (8, 16)
    assert facts.expert_boundary is None
    assert inspect_model(spec(two_experts)).expert_boundary == 875.0
    assert [facts.num_latent_frames(n) for n in (1, 5, 81, 1001)] == [1, 2, 21, 251]
    defaults = facts.defaults
    assert 2 * defaults.local_frames + 1 + defaults.global_frames == 21


def test_positions_keep_to_the_length_that_the_model_says(model: Path, tmp_path: Path) -> None:
    own = shutil.copytree(model, tmp_path / "own")
    (own / "video_infinity.json").write_text(json.dumps({"trained_frames": 13}))
    z_BCFHW = torch.zeros(1, 4, 2, 8, 8)
    for directory, frames in ((model, 21), (own, 13)):
        adapter = load_model(ModelSpec(str(directory), device="cpu"))
        ((_, rotary),) = adapter.sites().swaps
        assert rotary(z_BCFHW).trained_frames == frames


def test_latent_frames_stand_for_one_and_then_four_pixel_frames(model: Path) -> None:
    facts = inspect_model(spec(model))
    plan = Plan(split_timeline(11, 3), Scopes(0, 0))
    spans = [facts.pixel_frames(clip) for clip in plan.clips]
    assert [frame for span in spans for frame in span] == list(range(41))
    assert [facts.first_pixel_frame(frame) for frame in (0, 1, 2, 10)] == [0, 1, 5, 37]


def test_the_wrapped_pipeline_has_the_facts_of_its_directory(two_experts: Path) -> None:
    wrapped = adapter_of(tiny_wan_pipe(two_experts=True)).facts
    read = inspect_model(spec(two_experts))
    for name in ("latent_channels", "size_multiple", "expert_boundary", "defaults"):
        assert getattr(wrapped, name) == getattr(read, name)


def test_each_expert_takes_its_own_noise_levels(two_experts: Path) -> None:
    loaded: Any = load_model(spec(two_experts))
    first, second = (tiny_transformer(seed=seed) for seed in (0, 1))
    at_boundary, below = predict(loaded, 875), predict(loaded, 874)
    for timestep, transformer, ours in ((875, first, at_boundary), (874, second, below)):
        with torch.inference_mode():
            expected = transformer(Z_BCFHW, torch.tensor([timestep]), TEXT_BSD, return_dict=False)[
                0
            ]
        assert relative_difference(ours, expected) < TOLERANCE
    assert relative_difference(below, at_boundary) > WRONG_IS_BEYOND


def edited(model: Path, tmp_path: Path, file: str, **changes: Any) -> Path:
    """A copy of a model of which one config is another."""
    copied = shutil.copytree(model, tmp_path / "edited")
    config = copied / file
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return copied


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("transformer/config.json", {"patch_size": [2, 2, 2]}, r"patches of \[2, 2, 2\]"),
        ("transformer/config.json", {"image_dim": 8}, "starts from an image"),
        ("transformer/config.json", {"in_channels": 36}, "starts from an image"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "needs an AutoencoderKLWan"),
        ("model_index.json", {"transformer_2": ["diffusers", "X"]}, "no boundary_ratio"),
    ],
)
def test_what_the_engine_does_not_drive_is_refused(
    file: str, changes: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        inspect_model(spec(edited(model, tmp_path, file, **changes)))


def test_a_second_expert_that_is_not_there_is_refused(two_experts: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(two_experts, tmp_path / "copied")
    shutil.rmtree(copied / "transformer_2")
    with pytest.raises(ModelError, match="transformer_2: the second expert"):
        inspect_model(spec(copied))


def test_another_denoiser_for_a_model_with_two_is_refused(two_experts: Path, model: Path) -> None:
    with pytest.raises(ModelError, match="has two experts, and the flag names one"):
        inspect_model(spec(two_experts, unet=str(model)))


def test_another_denoiser_takes_the_place_of_the_own(model: Path, tmp_path: Path) -> None:
    tiny_transformer(seed=1).save_pretrained(tmp_path / "other")
    loaded = load_model(spec(model, unet=str(tmp_path / "other")))
    expected = predict_by_itself(tiny_transformer(seed=1))
    assert relative_difference(predict(loaded), expected) < TOLERANCE


def test_positions_by_another_formula_are_refused() -> None:
    transformer = tiny_transformer()
    wan.check_positions([transformer], "here")
    transformer.rope.freqs_cos[3] += 0.01
    with pytest.raises(ModelError, match="here: its positions follow another formula"):
        wan.check_positions([transformer], "here")


def workload(frames: int) -> Workload:
    """One branch of a video on one rank."""
    return Workload(Plan(split_timeline(frames, 1), Scopes(2, 1)), 0, 1, 4, "cpu")


def test_the_footprint_is_traced_without_weights(two_experts: Path) -> None:
    given = spec(two_experts)
    facts = inspect_model(given)
    loads = [workload(4)]
    small, large = (trace_model(given, facts, size, size, loads) for size in (32, 64))
    assert small.attention_values == 2 * 2 * 24 * 4  # K and V, layers, channels, tokens
    assert large.attention_values == 4 * small.attention_values
    assert large.peak_bytes[0] > small.peak_bytes[0] > 4 * 512, "text is there, whatever the size"
    assert small.conv_values == small.moment_values == 0
    pipe = tiny_wan_pipe(two_experts=True)
    parts = (pipe.transformer, pipe.transformer_2, pipe.vae)
    assert small.num_weights == sum(p.numel() for part in parts for p in part.parameters())
    assert small.num_text_weights == sum(p.numel() for p in pipe.text_encoder.parameters())


def test_the_footprint_without_weights_is_that_of_the_model(model: Path) -> None:
    given = spec(model)
    adapter, text_SD = adapter_of(tiny_wan_pipe()), torch.zeros(512, 16)
    traced = trace(
        adapter.sites(),
        lambda frames, batch: adapter.denoise(
            torch.zeros(batch, 4, frames, 4, 4),
            torch.zeros(batch),
            FrameText(text_SD[None], ((0,) * frames,) * batch),
        ),
        text_SD,
        num_weights=0,
        num_text_weights=0,
        workloads=[workload(24)],
    )
    expected = trace_model(given, inspect_model(given), 32, 32, [workload(24)])
    assert traced.attention_values == expected.attention_values
    assert traced.peak_bytes == expected.peak_bytes


# Text.


def test_text_is_what_diffusers_encodes(model: Path) -> None:
    prompts = ["c", "a  b ", "x " * 700]
    with torch.inference_mode():
        states, _ = tiny_wan_pipe().encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=512
        )
    ours = load_model(spec(model)).encode(prompts)
    assert ours.shape == (3, 512, 16)
    assert relative_difference(ours, states) < TOLERANCE
    assert ours[0, 2].any() and not ours[0, 3:].any(), "beyond the words there are zeros"


def test_prompts_that_are_cut_off_are_told_of(model: Path) -> None:
    loaded = load_model(spec(model))
    assert not loaded.truncated("x " * 200)
    assert loaded.truncated("x " * 700)


def test_a_rank_that_reads_no_text_loads_no_text_encoder(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the text encoder is loaded")

    monkeypatch.setattr("transformers.UMT5EncoderModel.from_pretrained", load)
    adapter: Any = load_model(spec(model), reads_text=False)
    assert adapter.text_encoder is None and adapter.tokenizer is None
    with pytest.raises(AssertionError, match="is loaded"):
        load_model(spec(model))


def test_one_rank_reads_the_text_and_the_others_hear_of_it(model: Path) -> None:
    case = Case(timeline=PROMPTS_OVER_TIME, options={"local_frames": 2, "global_frames": 2})

    def latents_on(size: int) -> torch.Tensor:
        def denoise(comm: Communicator, adapter: Adapter) -> torch.Tensor:
            return run_of(case, comm, adapter).denoise()[0]

        return torch.cat(
            on_threads(size, lambda rank: load_model(spec(model), reads_text=rank == 0), denoise), 1
        )

    assert relative_difference(latents_on(3), latents_on(1)) < TOLERANCE


def text_over_time(adapter: Adapter, timeline: PromptTimeline, frames: range) -> FrameText:
    """What each of these latent frames is told, without guidance."""
    prompts_PSD = adapter.encode(timeline.prompts)
    rows = []
    for frame in frames:
        mix = timeline.mix(adapter.facts.first_pixel_frame(frame))
        rows.append(torch.lerp(prompts_PSD[mix.before], prompts_PSD[mix.after], mix.weight))
    return FrameText(torch.stack(rows), (tuple(range(len(rows))),))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_frame_that_sees_no_other_is_what_the_model_makes_of_it_and_its_prompt(name: str) -> None:
    """Prompts over time, frame by frame against the unmodified transformer on one frame alone."""
    pipe = tiny_wan_pipe(name)
    adapter, frames = adapter_of(pipe), 8
    story = [{"start": 0, "prompt": "a b"}, {"start": 9, "prompt": "x", "transition": 12}]
    text = text_over_time(adapter, PromptTimeline.from_entries(story), range(frames))
    z_BCFHW = torch.randn(1, 4, frames, 8, 4, generator=torch.Generator().manual_seed(0))
    alone = Plan(split_timeline(frames, 1), Scopes(0, 0))
    context = ClipContext(SingleCommunicator(), alone, text)
    with torch.inference_mode():
        with installed(adapter.sites(), context):
            ours = adapter.denoise(z_BCFHW, torch.tensor(500), text)
        expected = [
            pipe.transformer(
                z_BCFHW[:, :, frame : frame + 1],
                torch.tensor([500]),
                text.rows_RSD[frame : frame + 1],
                return_dict=False,
            )[0]
            for frame in range(frames)
        ]
    assert relative_difference(ours, torch.cat(expected, 2)) < TOLERANCE
    assert len({row.sum().item() for row in text.rows_RSD}) == 4, "two prompts and two mixtures"


# Sites.


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_sites_are_all_there_are(name: str) -> None:
    """Every layer that mixes frames is declared: with all of them in place of an identity, a
    frame no longer sees another."""
    adapter: Any = adapter_of(tiny_wan_pipe(name))
    for attention in adapter.sites().frame_attention:
        attention.set_processor(lambda attn, hidden_states, *_, **__: hidden_states)
    changed = Z_BCFHW.clone()
    changed[:, :, 2] += 1.0
    text = FrameText(TEXT_BSD, ((0,) * 5,))
    with torch.inference_mode():
        a, b = (adapter.denoise(z, torch.tensor(9), text) for z in (Z_BCFHW, changed))
    torch.testing.assert_close(a[:, :, [0, 1, 3, 4]], b[:, :, [0, 1, 3, 4]])
    assert not torch.allclose(a[:, :, 2], b[:, :, 2])


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_itself_again_afterwards(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_wan_pipe()
    transformer = pipe.transformer
    expected = predict_by_itself(transformer)
    rope, names = transformer.rope, [name for name, _ in transformer.named_modules()]
    processors = [p for block in transformer.blocks for p in _processors(block)]
    if fails:
        monkeypatch.setattr(DualScopeFrameProcessor, "_attend", _broken)
        with pytest.raises(RuntimeError, match="in the middle"):
            predict(adapter_of(pipe))
    else:
        predict(adapter_of(pipe))
    assert transformer.rope is rope
    assert [name for name, _ in transformer.named_modules()] == names
    again = [p for block in transformer.blocks for p in _processors(block)]
    assert all(a is b for a, b in zip(again, processors, strict=True))
    assert torch.equal(predict_by_itself(transformer), expected)


def _processors(block: Any) -> list[Any]:
    return [block.attn1.processor, block.attn2.processor]


def _broken(*_: Any) -> Any:
    raise RuntimeError("in the middle of a layer")


@pytest.fixture
def own_default_backend() -> Iterator[None]:
    """diffusers' `set_attention_backend` changes the default of the whole process as well."""
    with attention_backend():
        yield


@pytest.mark.usefixtures("own_default_backend")
@pytest.mark.parametrize("inside", [False, True])
def test_the_users_attention_backend_is_honoured(
    inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was set before, or is set while the engine's processors stand there."""
    adapter: Any = adapter_of(tiny_wan_pipe())
    (transformer,) = adapter.experts
    expected, asked = predict(adapter), []

    def watched(*given: Any, backend: Any, **rest: Any) -> torch.Tensor:
        asked.append(backend)
        return dispatch(*given, backend=backend, **rest)

    dispatch = wan_attention.dispatch_attention_fn
    monkeypatch.setattr(wan_attention, "dispatch_attention_fn", watched)
    text = FrameText(TEXT_BSD, ((0,) * 5,))
    context = ClipContext(SingleCommunicator(), Plan(split_timeline(5, 1), Scopes(5, 0)), text)
    if not inside:
        transformer.set_attention_backend("_native_math")
    with torch.inference_mode(), installed(adapter.sites(), context):
        if inside:
            transformer.set_attention_backend("_native_math")
        for block in transformer.blocks:
            assert isinstance(block.attn1.processor, DualScopeFrameProcessor)
            assert block.attn1.processor._attention_backend == "_native_math"
        ours = adapter.denoise(Z_BCFHW, torch.tensor(500), text)
    assert asked == ["_native_math"] * len(transformer.blocks)
    assert relative_difference(ours, expected) < TOLERANCE


def predict_biased(noise_level: float, scopes: Scopes, schedule: BiasSchedule) -> torch.Tensor:
    """One pass over a video beyond the trained range, at a noise level."""
    adapter, frames = adapter_of(tiny_wan_pipe()), 30
    z_BCFHW = torch.randn(1, 4, frames, 4, 4, generator=torch.Generator().manual_seed(0))
    text = FrameText(TEXT_BSD, ((0,) * frames,))
    plan = Plan(split_timeline(frames, 1), scopes)
    context = ClipContext(SingleCommunicator(), plan, text, schedule)
    with torch.inference_mode(), installed(adapter.sites(), context), context.at(noise_level):
        return adapter.denoise(z_BCFHW, torch.tensor(500), text)


@pytest.mark.parametrize(
    ("schedule", "noise_level"),
    [(BiasSchedule(local=1000), 800), (BiasSchedule(global_=-1000), 801)],
    ids=["local keys alone count", "global keys do not count"],
)
def test_the_bias_of_a_noise_level_decides_between_the_scopes(
    schedule: BiasSchedule, noise_level: float
) -> None:
    plain = predict_biased(noise_level, Scopes(2, 4), BiasSchedule())
    local_alone = predict_biased(noise_level, Scopes(2, 0), BiasSchedule())
    assert relative_difference(plain, local_alone) > WRONG_IS_BEYOND
    biased = predict_biased(noise_level, Scopes(2, 4), schedule)
    assert relative_difference(biased, local_alone) < TOLERANCE
    on_the_other_side = 801 if noise_level == 800 else 800
    off = predict_biased(on_the_other_side, Scopes(2, 4), schedule)
    assert relative_difference(off, plain) < TOLERANCE


def test_fused_projections_are_used() -> None:
    pipe = tiny_wan_pipe()
    expected = predict(adapter_of(pipe))
    for block in pipe.transformer.blocks:
        block.attn1.fuse_projections()
        block.attn1.to_q.weight.data.zero_()
    assert relative_difference(predict(adapter_of(pipe)), expected) < TOLERANCE


# Positions.


def diffusers_rotation(x_BTHD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The formula of diffusers' attention processor, which is local to its `__call__`."""
    x1, x2 = x_BTHD.unflatten(-1, (-1, 2)).unbind(-1)
    out = torch.empty_like(x_BTHD)
    out[..., 0::2] = x1 * cos[..., 0::2] - x2 * sin[..., 1::2]
    out[..., 1::2] = x1 * sin[..., 1::2] + x2 * cos[..., 0::2]
    return out


@pytest.mark.parametrize("channels", [12, 16, 128])
def test_space_and_time_apart_are_diffusers_rotation(channels: int) -> None:
    rows, columns, frames = 4, 3, 7
    rope = WanRotaryPosEmbed(channels, (1, 2, 2), max_seq_len=32)
    rotary = WanRotary(rope, rows, columns, trained_frames=21, device=CPU)
    shape = (2, frames, rows * columns, 3, channels)
    x_BFPHD = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = diffusers_rotation(
        x_BFPHD.flatten(1, 2), *rope(torch.empty(1, 1, frames, 2 * rows, 2 * columns))
    ).view(shape)
    table = rotary.time_table(torch.arange(frames, dtype=torch.float64))
    ours = rotary.in_time(rotary.in_space(x_BFPHD), table)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    other_way = rotary.in_space(rotary.in_time(x_BFPHD, table))
    torch.testing.assert_close(other_way, ours, rtol=0, atol=1e-6)
    for alone in (rotary.in_space(x_BFPHD), rotary.in_time(x_BFPHD, table)):
        assert (alone - expected).abs().max() > 0.1


@pytest.mark.parametrize("first", [1020, 5000, 10**6])
def test_positions_have_no_end(first: int) -> None:
    """Beyond diffusers' table of 1,024 as within it, products depend on differences alone."""
    rotary = WanRotary(WanRotaryPosEmbed(16, (1, 2, 2), max_seq_len=1024), 2, 2, 21, CPU)
    x_FPHD = torch.randn(12, 4, 2, 16, generator=torch.Generator().manual_seed(0))
    here, there = (
        rotary.in_time(x_FPHD, rotary.time_table(torch.arange(12, dtype=torch.float64) + start))
        for start in (0, first)
    )
    products = [torch.einsum("fphd,gphd->fgph", x, x) for x in (here, there)]
    torch.testing.assert_close(*products, rtol=0, atol=1e-4)


def test_a_position_may_lie_between_frames() -> None:
    rotary = WanRotary(WanRotaryPosEmbed(16, (1, 2, 2), max_seq_len=8), 1, 1, 21, CPU)
    x_FPHD = torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    half = rotary.time_table(torch.tensor([0.5]).double())
    whole = rotary.time_table(torch.tensor([1.0]).double())
    torch.testing.assert_close(
        rotary.in_time(rotary.in_time(x_FPHD, half), half), rotary.in_time(x_FPHD, whole)
    )


# Pictures.


@pytest.mark.parametrize("num_frames", [1, 5, 9])
def test_pictures_are_what_diffusers_decodes(num_frames: int, model: Path) -> None:
    pipe, loaded = tiny_wan_pipe(), load_model(spec(model), reads_text=False)
    z_CFHW = torch.randn(4, num_frames, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (
        torch.tensor(values).view(-1, 1, 1, 1)
        for values in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    with torch.inference_mode():
        video = pipe.vae.decode((z_CFHW * std + mean)[None]).sample
    expected = pipe.video_processor.postprocess_video(video, output_type="np")[0]
    chunks = Chunks(num_frames, loaded.facts.decode_frames)
    stream, pieces = ChunkStream(SingleCommunicator(), chunks), []
    with loaded.decoding(stream, tiled=False) as decode:
        for index in range(len(chunks)):
            stream.begin(index)
            pieces.append(decode(z_CFHW[:, chunks[index].start : chunks[index].stop]))
            assert len(pieces[-1]) == len(loaded.facts.pixel_frames(chunks[index]))
    ours = torch.cat(pieces)
    assert ours.dtype == torch.uint8
    assert abs(ours.numpy() / 255.0 - expected).max() <= 0.5 / 255 + 1e-5


def test_tiling_is_switched_on_for_the_decode_alone() -> None:
    adapter: Any = adapter_of(tiny_wan_pipe())
    vae = adapter.vae
    for tiled, switched_on in ((False, True), (True, False), (True, True), (False, False)):
        vae.use_tiling = switched_on
        with adapter.decoding(ChunkStream(SingleCommunicator(), Chunks(1, 4)), tiled=tiled):
            assert vae.use_tiling == (tiled or switched_on)
        assert vae.use_tiling == switched_on


# Low-rank updates.

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.2"]


def save_lora(directory: Path, seed: int = 0, alpha: int = 6) -> Path:
    """Updates of rank 3 for the tiny transformer, as diffusers' training scripts save them."""
    transformer = tiny_transformer()
    transformer.add_adapter(LoraConfig(r=3, lora_alpha=alpha, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    WanPipeline.save_lora_weights(
        directory,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata={"r": 3, "lora_alpha": alpha, "target_modules": TARGETS},
    )
    return directory


def short_latents(adapter: Adapter) -> torch.Tensor:
    """A whole short run of ours, which sees all frames."""
    case = Case(options={"num_frames": 17, "local_frames": 5})
    return run_of(case, SingleCommunicator(), adapter).denoise()[0]


def short_latents_of(pipe: Any, adapter: Adapter) -> torch.Tensor:
    """The same by the unmodified pipeline."""
    case = Case(options={"num_frames": 17, "local_frames": 5})
    noise = run_of(case, SingleCommunicator(), adapter).job().noise_1CFHW
    return pipe(  # type: ignore[no-any-return]
        "a b c",
        num_frames=17,
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=3.0,
        negative_prompt="d",
        latents=noise,
        output_type="latent",
    ).frames[0]


def test_lora_changes_our_video_as_it_changes_the_pipelines(model: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora")
    plain, changed = load_model(spec(model)), load_model(spec(model, lora=str(lora)))
    pipe = tiny_wan_pipe()
    assert relative_difference(short_latents(plain), short_latents_of(pipe, plain)) < TOLERANCE
    pipe.load_lora_weights(str(lora))
    expected = short_latents_of(pipe, plain)
    assert relative_difference(short_latents(changed), expected) < TOLERANCE
    assert relative_difference(expected, short_latents(plain)) > 0.1
    layers = [name for name, _ in changed.experts[0].named_modules()]  # type: ignore[attr-defined]
    assert not any("lora" in name for name in layers), "merged, so that each layer is one product"


def test_lora_in_the_layout_of_wans_own_repository(model: Path, tmp_path: Path) -> None:
    """diffusers' loader knows it: the same update under another name."""
    shapes = lora_tensors("blocks.0.attn1.to_q", 24)
    loaded = []
    for renamed in ("transformer.blocks.0.attn1.to_q", "diffusion_model.blocks.0.self_attn.q"):
        directory = tmp_path / renamed
        directory.mkdir()
        tensors = {
            key.replace("blocks.0.attn1.to_q", renamed): torch.ones(shape)
            for key, shape in shapes.items()
        }
        save_file(tensors, directory / "lora.safetensors")
        loaded.append(predict(load_model(spec(model, lora=str(directory)))))
    assert torch.equal(*loaded)
    assert relative_difference(loaded[0], predict(load_model(spec(model)))) > WRONG_IS_BEYOND


def test_lora_for_each_of_two_experts(two_experts: Path, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora")
    save_lora(lora / "transformer_2", seed=1)
    changed = load_model(spec(two_experts, lora=str(lora)))
    pipe = tiny_wan_pipe(two_experts=True)
    before = short_latents_of(pipe, changed)
    pipe.load_lora_weights(str(lora), weight_name="pytorch_lora_weights.safetensors")
    first_alone = short_latents_of(pipe, changed)
    pipe.load_lora_weights(
        str(lora / "transformer_2"),
        weight_name="pytorch_lora_weights.safetensors",
        load_into_transformer_2=True,
    )
    expected = short_latents_of(pipe, changed)
    assert relative_difference(short_latents(changed), expected) < TOLERANCE
    assert relative_difference(first_alone, before) > WRONG_IS_BEYOND
    assert relative_difference(expected, first_alone) > WRONG_IS_BEYOND


def lora_tensors(name: str, columns: int) -> dict[str, tuple[int, int]]:
    return {f"{name}.lora_A.weight": (2, columns), f"{name}.lora_B.weight": (24, 2)}


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"transformer.blocks.0.attn1.to_q.weight": (24, 24)},
        lora_tensors("transformer.blocks.0.attn1.to_q", 36),
        lora_tensors("transformer.blocks.9.attn1.to_q", 24),
        lora_tensors("unet.down_blocks.0.attn1.to_q", 24),
        lora_tensors("diffusion_model.double_blocks.0.img_attn.qkv", 24),
        lora_tensors("lora_unet_down_blocks", 24),
        {"transformer.blocks.0.attn1.to_q.lora_A.weight": (2, 24)},
    ],
    ids=[
        "empty",
        "no update",
        "another width",
        "no such layer",
        "another model",
        "another model in its own layout",
        "another model as kohya writes it",
        "half a pair",
    ],
)
def test_a_lora_that_does_not_fit_is_refused(
    tensors: dict[str, tuple[int, int]], model: Path, tmp_path: Path
) -> None:
    save_file({k: torch.ones(v) for k, v in tensors.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=r"--lora .*: lora.safetensors holds no update that fits"):
        load_model(spec(model, lora=str(tmp_path)))


def test_a_lora_without_peft_is_refused_with_the_remedy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = save_lora(tmp_path / "lora")
    monkeypatch.setattr("video_infinity.adapters.wan_facts.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install peft"):
        inspect_model(spec(model, lora=str(lora)))
