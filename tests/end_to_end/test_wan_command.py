"""The command with a directory of Wan: files, plan, and mistakes that it alone knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.distributed.harness import TOLERANCE, relative_difference
from tests.end_to_end import program
from tests.end_to_end.test_bad_input import (
    assert_one_line,
    cut,
    drop_key,
    files_below,
    garble,
    replace_json,
)
from tests.end_to_end.test_command import read_pngs
from tests.tiny_wan import save_tiny_wan
from video_infinity import cli

NUM_FRAMES, LATENT_FRAMES, SIDE = 41, 11, 32
STORY = "[{start: 0, prompt: a b c}, {start: 9, prompt: x y, transition: 12}]"
SETTINGS = f"""
num-frames: {NUM_FRAMES}
height: {SIDE}
width: {SIDE}
num-inference-steps: 2
local-frames: 2
global-frames: 3
global-rule: rotating
timeline: {STORY}
"""
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole models, at paths with a space. Tests leave them as they are."""
    directory = tmp_path_factory.mktemp("some models")
    return {
        "one": save_tiny_wan(directory / "one"),
        "two": save_tiny_wan(directory / "two experts", two_experts=True),
    }


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    """A working directory with the settings of every run here."""
    directory = tmp_path_factory.mktemp("some place")
    for name, model in models.items():
        (directory / f"{name}.yaml").write_text(f"model: {model}\n{SETTINGS}")
    return directory


def frames_of(file: Path) -> np.ndarray[Any, Any]:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])


def in_process(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, name: str, *words: object, config: str = "one"
) -> torch.Tensor:
    """A run on one rank inside this process; returns its latents."""
    monkeypatch.chdir(cwd)
    argv = ["generate", "--config", f"{config}.yaml", "--quiet", "--output", name]
    argv += ["--save-latents", f"{name}.safetensors", *map(str, words)]
    assert cli.run(argv) == 0
    return load_file(cwd / f"{name}.safetensors")["latents"]


@pytest.fixture(scope="module")
def plain(cwd: Path) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return in_process(cwd, monkeypatch, "plain")


def test_two_processes_write_the_video_of_one(cwd: Path, plain: torch.Tensor) -> None:
    finished = program.run(
        *("generate", "--config", "one.yaml", "--nproc-per-node", "2", "--output", "v.mp4"),
        *("--save-latents", "v.safetensors", "--report", "v.json"),
        cwd=cwd,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"v.mp4: {NUM_FRAMES} frames on 2 ranks")
    assert finished.stderr == ""
    assert frames_of(cwd / "v.mp4").shape == (NUM_FRAMES, SIDE, SIDE, 3)
    latents = load_file(cwd / "v.safetensors")["latents"]
    assert latents.shape == plain.shape == (LATENT_FRAMES, 4, SIDE // 8, SIDE // 8)
    assert relative_difference(latents, plain) < TOLERANCE
    report = json.loads((cwd / "v.json").read_text())
    assert report["model"]["family"] == "wan"
    assert (report["num_frames"], report["num_latent_frames"]) == (NUM_FRAMES, LATENT_FRAMES)
    assert report["clips"] == [[0, 5], [5, 11]]
    assert report["settings"]["global_rule"] == "rotating"
    assert report["settings"]["fps"] == 16.0
    assert min(map(min, report["bytes_received_per_step"])) > 0


@pytest.mark.parametrize(
    "words", ["--global-rule even", "--global-frames 0", "--guidance-scale 3", "--seed 1"]
)
def test_options_do_count(
    words: str, cwd: Path, plain: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = in_process(cwd, monkeypatch, words.replace(" ", ""), *words.split())
    assert relative_difference(other, plain) > 1e-3


def test_a_second_guidance_scale_is_for_the_second_expert(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--num-inference-steps", 4)
    first = in_process(cwd, monkeypatch, "experts", *words, config="two")
    second = in_process(cwd, monkeypatch, "guided", *words, "--guidance-scale-2", 2, config="two")
    assert relative_difference(second, first) > 1e-2


def test_a_low_rank_update_changes_the_video(
    cwd: Path, plain: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cwd / "lora").mkdir()
    layer = "transformer.blocks.0.attn1.to_q"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 24), f"{layer}.lora_B.weight": torch.ones(24, 2)},
        cwd / "lora/update.safetensors",
    )
    changed = in_process(cwd, monkeypatch, "updated", "--lora", "lora")
    assert relative_difference(changed, plain) > 1e-2


def test_tiles_change_a_large_picture_slightly(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--height", 288, "--num-frames", 21, "--num-inference-steps", 1)
    whole = in_process(cwd, monkeypatch, "whole", *words)
    tiled = in_process(cwd, monkeypatch, "tiled", *words, "--vae-tiling")
    assert torch.equal(whole, tiled), "tiles are for the decoder alone"
    frames = [read_pngs(cwd / name).astype(int) for name in ("whole", "tiled")]
    assert frames[0].shape == frames[1].shape == (21, 288, SIDE, 3)
    assert 0 < np.abs(frames[0] - frames[1]).max() < 40


# Plan


def plan(
    models: dict[str, Path], capfd: pytest.CaptureFixture[str], *words: object, model: str = "one"
) -> str:
    argv = ["plan", "a b", "--model", str(models[model]), *map(str, words)]
    assert cli.run(argv) == 0
    return capfd.readouterr().out


def planned(
    models: dict[str, Path], capfd: pytest.CaptureFixture[str], *words: object, model: str = "one"
) -> dict[str, Any]:
    return json.loads(plan(models, capfd, *words, "--log-json", model=model))  # type: ignore[no-any-return]


def test_plan_of_a_long_video(models: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--num-frames", 1001, "--nproc-per-node", 8)
    told = planned(models, capfd, *words)
    assert (told["num_frames"], told["num_latent_frames"], told["ranks"]) == (1001, 251, 8)
    assert (told["local_frames"], len(told["global_context"])) == (8, 4)
    assert told["global_context"][0] == 0
    received = told["bytes_received_per_step"]
    longer = planned(models, capfd, "--num-frames", 4001, "--nproc-per-node", 16)
    assert min(received) > 0
    assert max(longer["bytes_received_per_step"]) <= max(received) * (16 + 4) / (16 + 3)
    printed = plan(models, capfd, *words)
    assert printed.startswith("1001 frames, 251 latent frames, 8 ranks, clip-parallel")
    assert "text encoder" in printed and "on rank 0" in printed
    assert len(printed.splitlines()) >= 8 + 4


def test_plan_counts_both_experts(
    models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = (planned(models, capfd, model=name) for name in ("one", "two"))
    expert = sum(
        tensor.numel() for tensor in load_file(models["two"] / "transformer_2" / WEIGHTS).values()
    )
    assert two["weights_bytes"] - one["weights_bytes"] == 4 * expert
    assert two["bytes_received_per_step"] == one["bytes_received_per_step"]


def test_plan_of_a_rotating_global_context(
    models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "rotating: 0, " in plan(models, capfd, "--global-rule", "rotating")
    assert "even: 0, " in plan(models, capfd)


# Mistakes


@dataclass(frozen=True)
class Bench:
    """Where a case is set up: the working directory, and models that stay as they are."""

    cwd: Path
    models: dict[str, Path]

    def own_model(self, name: str) -> Path:
        """A copy of a model."""
        return shutil.copytree(self.models[name], self.cwd / "model")


Case = tuple[Callable[[Bench], list[Any]] | list[Any], tuple[str, ...]]
"""What to add to `generate "a b"` with a model of one expert, and what the line must say."""


def spoilt(
    file: str, spoil: Callable[[Path], object], model: str = "one"
) -> Callable[[Bench], list[Any]]:
    """A model of which one file is spoilt."""

    def words(bench: Bench) -> list[Any]:
        copied = bench.own_model(model)
        spoil(copied / file)
        return ["--model", copied]

    return words


def experts(*words: str) -> Callable[[Bench], list[Any]]:
    """A model of two experts as it should be."""
    return lambda bench: ["--model", bench.models["two"], *words]


def latents_of(num_latent_frames: int) -> Callable[[Bench], list[Any]]:
    def words(bench: Bench) -> list[Any]:
        z_LCHW = torch.zeros(num_latent_frames, 4, 4, 4)
        save_file({"latents": z_LCHW}, bench.cwd / "z.safetensors")
        return ["--initial-latents", "z.safetensors"]

    return words


SECOND = "the second expert"
CASES: dict[str, Case] = {
    # numbers
    "frames not 4k+1": (
        ["--num-frames", "42"],
        ("num_frames=42", "does not fit wan (4k+1)", "nearest are 41 and 45"),
    ),
    "two frames": (["--num-frames", "2"], ("num_frames=2", "nearest are 1 and 5")),
    "fewer latent frames than ranks": (
        ["--num-frames", "5", "--nproc-per-node", "3"],
        ("--num-frames 5 is 2 latent frames", "3 ranks", "more frames or fewer ranks"),
    ),
    "height": (["--height", "40"], ("--height 40", "multiples of 16", "nearest are 32 and 48")),
    "width": (["--width", "8"], ("--width 8", "multiples of 16", "nearest are 16 and 32")),
    "latents of another length": (latents_of(12), ("[12, 4, 4, 4]", "[11, 4, 4, 4]")),
    # options that would have no effect
    "second guidance without experts": (
        ["--guidance-scale-2", "2"],
        ("--guidance-scale-2 2", "one denoiser", "drop the flag"),
    ),
    "second guidance without guidance": (
        experts("--guidance-scale-2", "2", "--guidance-scale", "1"),
        ("--guidance-scale-2 2", "no effect at --guidance-scale 1", "above 1"),
    ),
    "second guidance NaN": (
        experts("--guidance-scale-2", "nan"),
        ("--guidance-scale-2 nan", "give a number"),
    ),
    "frame rate": (["--fps-condition", "8"], ("--fps-condition 8", "no frame rate", "drop the")),
    "another denoiser in place of two": (
        lambda bench: experts("--unet", str(bench.models["one"]))(bench),
        ("--unet", "two experts", "drop it"),
    ),
    "unknown rule": (["--global-rule", "odd"], ("--global-rule 'odd'", "even, rotating")),
    # the model
    "another class of transformer": (
        spoilt("transformer/config.json", replace_json(_class_name="WanVACETransformer3DModel")),
        ("transformer holds a WanVACETransformer3DModel", "known: ", "WanTransformer3DModel"),
    ),
    "image to video": (
        spoilt("transformer/config.json", replace_json(in_channels=36)),
        ("starts from an image", "text-to-video"),
    ),
    "another class of autoencoder": (
        spoilt("vae/config.json", replace_json(_class_name="AutoencoderKL")),
        ("vae holds a AutoencoderKL", "AutoencoderKLWan"),
    ),
    "missing second expert": (
        spoilt("transformer_2", shutil.rmtree, "two"),
        ("boundary_ratio but no transformer_2", SECOND, "missing", "fetch the whole model"),
    ),
    "boundary without a second expert": (
        spoilt("model_index.json", replace_json(boundary_ratio=0.9)),
        ("boundary_ratio but no transformer_2", SECOND, "missing"),
    ),
    "second expert without a boundary": (
        spoilt("model_index.json", drop_key("boundary_ratio"), "two"),
        ("transformer_2 but no boundary_ratio", "second expert takes over"),
    ),
    "boundary in words": (
        spoilt("model_index.json", replace_json(boundary_ratio="late"), "two"),
        ("'late'", "fetch or save it again"),
    ),
    "second expert of another class": (
        spoilt("transformer_2/config.json", replace_json(_class_name="Mystery"), "two"),
        ("transformer_2 holds a Mystery", "WanTransformer3DModel is wanted"),
    ),
    "truncated second expert": (
        spoilt(f"transformer_2/{WEIGHTS}", cut, "two"),
        (f"transformer_2/{WEIGHTS}", "truncated", "fetch or save it again"),
    ),
    "corrupt weights": (
        spoilt(f"transformer/{WEIGHTS}", garble),
        (f"transformer/{WEIGHTS}", "corrupt", "fetch or save it again"),
    ),
    "no text encoder": (
        spoilt("text_encoder/model.safetensors", Path.unlink),
        ("text_encoder", "no safetensors weights"),
    ),
    "text of another model": (
        spoilt("text_encoder/config.json", replace_json(d_model=24)),
        ("text_encoder writes 24 channels", "transformer reads 16"),
    ),
    "no tokenizer": (spoilt("tokenizer", shutil.rmtree), ("no tokenizer", "diffusers format")),
    "config with a hole": (
        spoilt("vae/config.json", drop_key("z_dim")),
        ("z_dim", "fetch or save it again"),
    ),
}


@pytest.fixture
def bench(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Bench(tmp_path, models)


def command_line(bench: Bench, add: Callable[[Bench], list[Any]] | list[Any]) -> list[str]:
    words = add(bench) if callable(add) else add
    size = ["--num-frames", NUM_FRAMES, "--height", SIDE, "--width", SIDE]
    return [
        str(word) for word in ("generate", "a b", "--model", bench.models["one"], *size, *words)
    ]


@pytest.mark.parametrize("name", CASES)
def test_mistake_is_one_line(
    name: str, bench: Bench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a rank is started nor a weight read."""

    def begin(*_: object, **__: object) -> None:
        raise AssertionError("the mistake was not found before the work began")

    monkeypatch.setattr("video_infinity.command.launch_ranks", begin)
    monkeypatch.setattr("video_infinity.rank.load_model", begin)
    add, fragments = CASES[name]
    argv = command_line(bench, add)
    before = files_below(bench.cwd)
    assert cli.run(argv) == 2
    out, err = capfd.readouterr()
    assert_one_line(err, fragments)
    assert out == ""
    assert files_below(bench.cwd) == before


def other_update(bench: Bench) -> list[Any]:
    """Of another model: a whole file, found out by loading it."""
    (bench.cwd / "lora").mkdir()
    layer = "unet.down_blocks.0.attn1.to_q"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 24), f"{layer}.lora_B.weight": torch.ones(24, 2)},
        bench.cwd / "lora/update.safetensors",
    )
    return ["--lora", "lora"]


@pytest.mark.parametrize(
    ("add", "fragments"),
    [
        (other_update, ("--lora", "update.safetensors holds no update that fits")),
        (
            spoilt("transformer/config.json", replace_json(ffn_dim=40)),
            ("transformer", "fit the config"),
        ),
    ],
    ids=["update of another model", "weights that do not fit"],
)
def test_mistake_that_loading_finds_is_one_line(
    add: Callable[[Bench], list[Any]],
    fragments: tuple[str, ...],
    bench: Bench,
    capfd: pytest.CaptureFixture[str],
) -> None:
    argv = command_line(bench, add)
    before = files_below(bench.cwd)
    assert cli.run(argv) == 2
    out, err = capfd.readouterr()
    assert_one_line(err, fragments)
    assert out == ""
    assert files_below(bench.cwd) == before


def test_mistake_in_processes_of_its_own(bench: Bench) -> None:
    """Two ranks find it out, and one tells."""
    argv = command_line(bench, other_update)
    before = files_below(bench.cwd)
    finished = program.run(*argv, "--nproc-per-node", "2", cwd=bench.cwd)
    assert finished.returncode == 2, finished.stderr
    assert_one_line(finished.stderr, ("--lora", "update.safetensors holds no update that fits"))
    assert finished.stdout == ""
    assert files_below(bench.cwd) == before
