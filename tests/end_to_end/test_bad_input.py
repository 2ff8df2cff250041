"""Bad input: exit 2, one line with what, value and remedy, no file written, no process left.

Most cases run inside this process, where starting a rank or reading a weight is an error.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.end_to_end import program
from video_infinity import cli

LATENTS_SHAPE = (9, 4, 4, 4)
UNET = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Bench:
    """Where a case is set up: the working directory, and a model that it may spoil."""

    cwd: Path
    model: Path

    def own_model(self) -> Path:
        """A copy of the model."""
        return shutil.copytree(self.model, self.cwd / "model")


Case = tuple[Callable[[Bench], list[Any]] | list[Any], tuple[str, ...]]
"""What to add to `generate --num-frames 9 --model MODEL`, and what the line must say."""


def timeline(text: str) -> Callable[[Bench], list[Any]]:
    def words(bench: Bench) -> list[Any]:
        (bench.cwd / "story.yaml").write_text(text)
        return ["--timeline", "story.yaml"]

    return words


def config(text: str) -> Callable[[Bench], list[Any]]:
    def words(bench: Bench) -> list[Any]:
        (bench.cwd / "run.yaml").write_text(text)
        return ["a b", "--config", "run.yaml"]

    return words


def latents(change: Callable[[torch.Tensor], torch.Tensor], name: str = "latents") -> Any:
    def words(bench: Bench) -> list[Any]:
        save_file({name: change(torch.zeros(LATENTS_SHAPE))}, bench.cwd / "z.safetensors")
        return ["a b", "--initial-latents", "z.safetensors"]

    return words


def with_nan(z_LCHW: torch.Tensor) -> torch.Tensor:
    z_LCHW[-1, -1, -1, -1] = float("nan")
    return z_LCHW


def spoilt(file: str, spoil: Callable[[Path], object]) -> Callable[[Bench], list[Any]]:
    """A model of which one file is spoilt."""

    def words(bench: Bench) -> list[Any]:
        model = bench.own_model()
        spoil(model / file)
        return ["a b", "--model", model]

    return words


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def prolong(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


def garble(file: Path) -> None:
    file.write_bytes(b"\xff" * 1000)


def replace_json(**changes: Any) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


def drop_key(key: str) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        held = json.loads(file.read_text())
        del held[key]
        file.write_text(json.dumps(held))

    return spoil


def truncated_latents(bench: Bench) -> list[Any]:
    words = latents(lambda z: z)(bench)
    cut(bench.cwd / "z.safetensors")
    return words  # type: ignore[no-any-return]


def pickled_latents(bench: Bench) -> list[Any]:
    torch.save({"latents": torch.zeros(LATENTS_SHAPE)}, bench.cwd / "z.pt")
    return ["a b", "--initial-latents", "z.pt"]


def occupied(name: str, *words: str) -> Callable[[Bench], list[Any]]:
    def set_up(bench: Bench) -> list[Any]:
        (bench.cwd / name).write_text("precious")
        return ["a b", *words]

    return set_up


def foreign_directory(bench: Bench) -> list[Any]:
    (bench.cwd / "frames").mkdir()
    (bench.cwd / "frames/thesis.txt").write_text("precious")
    return ["a b", "--output", "frames", "--overwrite"]


def unwritable(bench: Bench) -> list[Any]:
    if os.geteuid() == 0:
        return ["a b", "--output", "/proc/video.mp4"]
    (bench.cwd / "locked").mkdir(mode=0o555)
    return ["a b", "--output", "locked/video.mp4"]


def empty_directory(flag: str) -> Callable[[Bench], list[Any]]:
    def words(bench: Bench) -> list[Any]:
        (bench.cwd / "empty").mkdir()
        return ["a b", flag, "empty"]

    return words


CASES: dict[str, Case] = {
    # the prompt
    "no prompt": ([], ("prompt", "''", "--timeline")),
    "empty prompt": ([""], ("prompt", "''", "--timeline")),
    "blank prompt": (["  "], ("prompt", "is empty", "say what to show")),
    "unquoted prompt": (["a", "b"], ("2 arguments", "quote it: 'a b'")),
    "prompt and timeline": (["a", "--timeline", "x.yaml"], ("both", "give one")),
    # the model
    "unknown model": (["a", "--model", "nosuch"], ("--model 'nosuch'", "video-infinity models")),
    "hub out of reach": (["a", "--model", "some/one"], ("some/one", "local directory")),
    "no model_index.json": (empty_directory("--model"), ("empty", "model_index.json")),
    "model is a file": (occupied("m", "--model", "m"), ("m is a file", "give a directory")),
    "truncated weights": (spoilt(UNET, cut), (UNET, "truncated", "fetch or save it again")),
    "prolonged weights": (spoilt(UNET, prolong), (UNET, "bytes", "fetch or save it again")),
    "corrupt weights": (spoilt(UNET, garble), (UNET, "corrupt", "fetch or save it again")),
    "no weights": (spoilt(UNET, Path.unlink), ("unet", "no safetensors weights")),
    "corrupt config": (spoilt("unet/config.json", garble), ("config.json", "cannot be read")),
    "config with a hole": (
        spoilt("vae/config.json", drop_key("block_out_channels")),
        ("block_out_channels", "fetch or save it again"),
    ),
    "another kind of denoiser": (
        spoilt("unet/config.json", replace_json(_class_name="MysteryModel")),
        ("MysteryModel", "UNet3DConditionModel"),
    ),
    "text of another model": (
        spoilt("text_encoder/config.json", replace_json(hidden_size=24)),
        ("text_encoder writes 24 channels", "unet reads 16", "a --unet that goes with it"),
    ),
    "autoencoder of another model": (
        spoilt("vae/config.json", replace_json(latent_channels=8)),
        ("latents of 4 channels", "autoencoder reads 8", "a --unet that goes with it"),
    ),
    "no tokenizer": (spoilt("tokenizer", shutil.rmtree), ("no tokenizer", "diffusers format")),
    "revision of a directory": (["a", "--revision", "v2"], ("--revision v2", "directory")),
    "no denoiser": (empty_directory("--unet"), ("empty", "config.json", "diffusers format")),
    "no low-rank updates": (empty_directory("--lora"), ("empty", "no safetensors weights")),
    "frame rate for a model without": (
        ["a", "--fps-condition", "8"],
        ("--fps-condition 8", "takes no frame rate", "drop the flag"),
    ),
    # numbers
    "no frames": (["a", "--num-frames", "0"], ("--num-frames 0", "from 1")),
    "negative frames": (["a", "--num-frames", "-3"], ("--num-frames -3", "from 1")),
    "frames in words": (["a", "--num-frames", "abc"], ("--num-frames 'abc'", "whole number")),
    "part of a frame": (["a", "--num-frames", "1.5"], ("--num-frames '1.5'", "whole number")),
    "fewer frames than ranks": (
        ["a", "--num-frames", "2", "--nproc-per-node", "3"],
        ("--num-frames 2", "3 ranks", "more frames or fewer ranks"),
    ),
    "no ranks": (["a", "--nproc-per-node", "0"], ("--nproc-per-node 0", "from 1", "auto")),
    "ranks in words": (["a", "--nproc-per-node", "all"], ("--nproc-per-node 'all'", "auto")),
    "no steps": (["a", "--num-inference-steps", "0"], ("--num-inference-steps 0", "from 1")),
    "guidance NaN": (["a", "--guidance-scale", "nan"], ("--guidance-scale nan", "give a number")),
    "guidance inf": (["a", "--guidance-scale", "inf"], ("--guidance-scale inf", "to 1000")),
    "guidance in words": (["a", "--guidance-scale", "x"], ("--guidance-scale 'x'", "a number")),
    "guidance of an expert that is not there": (
        ["a", "--guidance-scale-2", "3"],
        ("--guidance-scale-2 3", "one denoiser", "drop the flag"),
    ),
    "negative seed": (["a", "--seed", "-1"], ("--seed -1", "from 0")),
    "huge seed": (["a", "--seed", str(2**63)], ("--seed 9223372036854775808", "to ")),
    "no height": (["a", "--height", "0"], ("--height 0", "from 1")),
    "height the model cannot": (["a", "--height", "9"], ("--height 9", "nearest are 8 and 10")),
    "no frame rate": (["a", "--fps", "0"], ("--fps 0", "from 0.01")),
    "negative scope": (["a", "--local-frames", "-1"], ("--local-frames -1", "from 0")),
    "bias NaN": (["a", "--global-bias", "nan"], ("--global-bias nan", "give a number")),
    "switch beyond": (["a", "--bias-switch", "1001"], ("--bias-switch 1001", "to 1000")),
    "no patience": (["a", "--timeout", "0"], ("--timeout 0", "from 1")),
    "mesh that is none": (["a", "--parallel", "2x4"], ("--parallel '2x4'", "cfg=2")),
    "mesh with three branches": (["a", "--parallel", "cfg=3"], ("'cfg=3'", "cfg is 1 or 2")),
    "mesh that the ranks do not fill": (
        ["a", "--parallel", "cfg=2,clip=2", "--nproc-per-node", "3"],
        ("cfg=2,clip=2", "3 ranks"),
    ),
    "mesh of branches without guidance": (
        ["a", "--parallel", "cfg=2", "--guidance-scale", "1"],
        ("cfg=2", "--guidance-scale 1"),
    ),
    "branches one by one without guidance": (
        ["a", "--sequential-guidance", "--guidance-scale", "1"],
        ("--sequential-guidance", "drop it"),
    ),
    "negative prompt without guidance": (
        ["a", "--negative-prompt", "b", "--guidance-scale", "1"],
        ("--negative-prompt", "--guidance-scale 1", "above 1"),
    ),
    # choices
    "unknown device": (["a", "--device", "tpu"], ("--device 'tpu'", "auto, cpu, cuda")),
    "unknown dtype": (["a", "--dtype", "int8"], ("--dtype 'int8'", "float32, bfloat16, float16")),
    "unknown method": (
        ["a", "--method", "x"],
        ("--method 'x'", "clip-parallel, direct, independent"),
    ),
    "unknown rule": (["a", "--global-rule", "x"], ("--global-rule 'x'", "even, rotating")),
    "unknown flag": (["a", "--num-frame", "3"], ("--num-frame", "--num-frames", "--help")),
    "flag without value": (["a", "--seed"], ("--seed", "requires an argument", "--help")),
    # prompts over time
    "unsorted timeline": (
        timeline("[{start: 0, prompt: a}, {start: 6, prompt: b}, {start: 3, prompt: c}]"),
        ("not sorted", "3 follows frame 6", "must rise"),
    ),
    "timeline from 4": (timeline("[{start: 4, prompt: a}]"), ("frame 4", "must start at 0")),
    "timeline beyond the end": (
        timeline("[{start: 0, prompt: a}, {start: 9, prompt: b}]"),
        ("frame 9", "0 to 8", "raise --num-frames"),
    ),
    "transition beyond the end": (
        timeline("[{start: 0, prompt: a}, {start: 6, prompt: b, transition: 4}]"),
        ("ends at 10", "9 frames", "shorten it"),
    ),
    "transitions that overlap": (
        timeline(
            "[{start: 0, prompt: a}, {start: 2, prompt: b, transition: 4}, {start: 5, prompt: c}]"
        ),
        ("frame 2 lasts 4", "entry at 5", "shorten it"),
    ),
    "transition from nothing": (
        timeline("[{start: 0, prompt: a, transition: 2}]"),
        ("frame 0", "transition of 2", "set it to 0"),
    ),
    "timeline with an empty prompt": (
        timeline("[{start: 0, prompt: ''}]"),
        ("frame 0 is empty", "give it some text"),
    ),
    "timeline not YAML": (timeline("[{start: 0"), ("story.yaml is not YAML", "line", "mend")),
    "timeline of text": (timeline("a b c"), ("list of {start, prompt}", "str")),
    "empty timeline file": (timeline(""), ("list of {start, prompt}", "NoneType")),
    "timeline without entries": (timeline("[]"), ("no entries", "at least")),
    "timeline with a wrong key": (
        timeline("[{start: 0, text: a}]"),
        ("entry 0", "text", "start, prompt, transition"),
    ),
    "timeline with a start in words": (
        timeline("[{start: now, prompt: a}]"),
        ("entry 0", "'now'", "whole number"),
    ),
    "no timeline file": (["--timeline", "x.yaml"], ("--timeline 'x.yaml'", "No such file")),
    # files to write
    "output in no directory": (
        ["a", "--output", "no/v.mp4"],
        ("--output no/v.mp4", "does not exist", "create it"),
    ),
    "output not writable": (unwritable, ("--output", "video.mp4", "name another place")),
    "unknown suffix": (["a", "--output", "v.avi"], ("v.avi", ".avi is unknown", ".mp4, .webm")),
    "output is there": (
        occupied("v.mp4", "--output", "v.mp4"),
        ("v.mp4 exists", "add --overwrite or name another"),
    ),
    "latents are there": (
        occupied("z.st", "--save-latents", "z.st"),
        ("--save-latents z.st exists", "add --overwrite"),
    ),
    "report is there": (
        occupied("r.json", "--report", "r.json"),
        ("--report r.json exists", "add --overwrite"),
    ),
    "directory of others": (foreign_directory, ("thesis.txt", "name another directory")),
    "one file for two things": (
        ["a", "--output", "v.mp4", "--report", "v.mp4"],
        ("v.mp4 is named twice", "different files"),
    ),
    "fast gif": (["a", "--output", "v.gif", "--fps", "60"], ("fps=60", "v.gif", "use 0.01 to 50")),
    # files to read
    "latents of another length": (latents(lambda z: z[1:]), ("[8, 4, 4, 4]", "[9, 4, 4, 4]")),
    "latents of half precision": (latents(torch.Tensor.half), ("F16", "needs F32")),
    "latents with NaN": (latents(with_nan), ("z.safetensors", "NaN", "write it anew")),
    "latents by another name": (latents(lambda z: z, "z"), ("['z']", "one tensor latents")),
    "truncated latents": (truncated_latents, ("z.safetensors", "cannot be read")),
    "pickled latents": (pickled_latents, ("z.pt", "cannot be read as safetensors")),
    "no latents": (["a", "--initial-latents", "z"], ("--initial-latents z", "No such file")),
    # the config file
    "unknown key": (config("num_frame: 3"), ("run.yaml", "num_frame", "mean num_frames?")),
    "strange key": (config("zzz: 3"), ("run.yaml", "zzz", "known are", "timeout")),
    "config number in words": (
        config("num-frames: many"),
        ("run.yaml", "--num-frames 'many'", "whole number"),
    ),
    "config list for a number": (config("seed: [1]"), ("run.yaml", "--seed [1]", "whole number")),
    "config switch in words": (
        config("overwrite: 'yes'"),
        ("run.yaml", "--overwrite 'yes'", "true or false"),
    ),
    "config tiling in words": (
        config("vae-tiling: 'yes'"),
        ("run.yaml", "--vae-tiling 'yes'", "true or false"),
    ),
    "config number for a file": (config("report: 3"), ("run.yaml", "--report 3", "no file name")),
    "config number for a name": (config("lora: 3"), ("run.yaml", "--lora 3", "no name")),
    "config prompt of another kind": (
        lambda bench: config("prompt: 7")(bench)[1:],
        ("prompt 7", "quotes"),
    ),
    "config key twice": (
        config("num-frames: 9\nnum_frames: 10"),
        ("run.yaml", "twice", "drop one"),
    ),
    "config not YAML": (config("a: [1"), ("run.yaml is not YAML", "mend the file")),
    "config of text": (config("fast please"), ("run.yaml holds a str", "option: value")),
    "no config": (["a", "--config", "x.yaml"], ("--config 'x.yaml'", "No such file")),
}


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Bench(tmp_path, tiny_model)


@pytest.fixture
def nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a rank is started nor a weight read."""

    def begin(*_: object) -> None:
        raise AssertionError("the mistake was not found before the work began")

    monkeypatch.setattr("video_infinity.command.launch_ranks", begin)
    monkeypatch.setattr("video_infinity.rank.load_model", begin)


def files_below(directory: Path) -> dict[str, bytes]:
    """Every file with its content, hidden ones and empty directories as well."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
    }


def command_line(bench: Bench, add: Callable[[Bench], list[Any]] | list[Any]) -> list[str]:
    words = add(bench) if callable(add) else add
    given = ["generate", "--num-frames", "9", "--model", bench.model, *words]
    return [str(word) for word in given]


def assert_one_line(stderr: str, fragments: tuple[str, ...]) -> None:
    (line,) = stderr.splitlines()
    assert line.startswith("video-infinity: error: ")
    for fragment in fragments:
        assert fragment in line


@pytest.mark.usefixtures("nothing_begins")
@pytest.mark.parametrize("name", CASES)
def test_mistake_is_one_line(name: str, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    add, fragments = CASES[name]
    argv = command_line(bench, add)
    before = files_below(bench.cwd)
    assert cli.run(argv) == 2
    out, err = capfd.readouterr()
    assert_one_line(err, fragments)
    assert out == ""
    assert files_below(bench.cwd) == before


@pytest.mark.usefixtures("nothing_begins")
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(command_line(bench, ["a", "--device", "cuda"])) == 2
    assert_one_line(capfd.readouterr().err, ("--device cuda", "no usable GPU", "--device cpu"))


@pytest.mark.usefixtures("nothing_begins")
def test_more_ranks_than_gpus(
    bench: Bench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert cli.run(command_line(bench, ["a", "--nproc-per-node", "3"])) == 2
    assert_one_line(capfd.readouterr().err, ("--nproc-per-node 3", "2 GPUs", "2 or fewer"))


class Burglar:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self._marker}'",)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_pickle_is_never_opened(
    component: str, bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    marker, model = bench.cwd / "burgled", bench.own_model()
    (weights,) = (model / component).glob("*.safetensors")
    weights.unlink()
    pickled = weights.with_suffix(".bin")
    pickled.write_bytes(pickle.dumps(Burglar(marker)))
    assert cli.run(command_line(bench, ["a", "--model", model])) == 2
    assert_one_line(capfd.readouterr().err, (pickled.name, "never opened", "convert it"))
    assert not marker.exists()
    pickle.loads(pickled.read_bytes())
    assert marker.exists(), "the pickle is harmless, and proves nothing"


def misfit(bench: Bench) -> list[Any]:
    """Weights whose shapes are not those of the config: whole files, found out by loading them."""
    return spoilt("unet/config.json", replace_json(block_out_channels=[16, 48]))(bench)


def mute(bench: Bench) -> list[Any]:
    """A text encoder that loads; PyTorch refuses its shapes once it reads."""
    return spoilt("text_encoder/config.json", replace_json(num_attention_heads=-1))(bench)


def unfit_scheduler(bench: Bench) -> list[Any]:
    """A scheduler that has no eta, in a model whose weights would not load either."""
    words = misfit(bench)
    replace_json(_class_name="UniPCMultistepScheduler")(
        words[-1] / "scheduler/scheduler_config.json"
    )
    return [*words, "--eta", "0.5"]


PROCESSES: dict[str, tuple[Case, list[str]]] = {
    "wrong number": (CASES["frames in words"], []),
    "existing output": (CASES["output is there"], ["--nproc-per-node", "2"]),
    "scheduler before weights": (
        (unfit_scheduler, ("--eta 0.5", "UniPCMultistepScheduler", "drop the flag")),
        ["--nproc-per-node", "2"],
    ),
    "weights that do not fit": ((misfit, ("unet", "fit the config")), ["--nproc-per-node", "2"]),
    "text encoder that does not compute": (
        (mute, ("the text encoder of", "RuntimeError", "fetch or save the model again")),
        ["--nproc-per-node", "2", "--max-restarts", "2"],  # a mistake is not tried again
    ),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_mistake_in_a_process_of_its_own(name: str, bench: Bench) -> None:
    (add, fragments), more = PROCESSES[name]
    argv = command_line(bench, add)
    before = files_below(bench.cwd)
    finished = program.run(*argv, *more, cwd=bench.cwd)
    assert finished.returncode == 2, finished.stderr
    assert_one_line(finished.stderr, fragments)
    assert finished.stdout == ""
    assert files_below(bench.cwd) == before
