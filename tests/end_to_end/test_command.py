"""The command as a person runs it: files, report, messages, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.distributed.harness import TOLERANCE, relative_difference
from tests.end_to_end import program
from video_infinity import cli
from video_infinity.noise import initial_noise

NUM_FRAMES, SIDE, STEPS, FPS = 13, 32, 3, 10
LATENT_SIDE = SIDE // 2
STORY = "[{start: 0, prompt: a b c}, {start: 4, prompt: d e, transition: 6}]"
SETTINGS = f"""
num-frames: {NUM_FRAMES}
height: {SIDE}
width: {SIDE}
num_inference_steps: {STEPS}
guidance-scale: 3
local-frames: 2
global_frames: 3
fps: {FPS}
timeline: {STORY}
"""
ENDLESS = ["--num-inference-steps", "1000"]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A working directory with a space in its path, and the settings of every run here."""
    directory = tmp_path_factory.mktemp("some place")
    (directory / "run.yaml").write_text(f"model: {tiny_model}\n{SETTINGS}")
    return directory


@dataclass(frozen=True)
class Result:
    """What one run left."""

    frames_FHWC: np.ndarray[Any, Any]
    z_LCHW: torch.Tensor
    report: dict[str, Any]
    stdout: str
    stderr: str


def generate(cwd: Path, name: str, *words: str) -> Result:
    """A run in processes of its own, to PNGs, latents and a report."""
    latents, report = f"{name}.safetensors", f"{name}.json"
    finished = program.run(
        *("generate", "--config", "run.yaml", "--output", name),
        *("--save-latents", latents, "--report", report, *words),
        cwd=cwd,
    )
    assert finished.returncode == 0, finished.stderr
    return Result(
        read_pngs(cwd / name),
        load_file(cwd / latents)["latents"],
        json.loads((cwd / report).read_text()),
        finished.stdout,
        finished.stderr,
    )


def read_pngs(directory: Path) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(directory.iterdir())])


@pytest.fixture(scope="module")
def one(cwd: Path) -> Result:
    return generate(cwd, "one")


@pytest.fixture(scope="module")
def three(cwd: Path) -> Result:
    return generate(cwd, "three", "--nproc-per-node", "3", "--log-json")


def test_three_processes_give_the_video_of_one(one: Result, three: Result) -> None:
    assert one.z_LCHW.shape == three.z_LCHW.shape == (NUM_FRAMES, 4, LATENT_SIDE, LATENT_SIDE)
    assert relative_difference(three.z_LCHW, one.z_LCHW) < TOLERANCE
    assert one.frames_FHWC.shape == three.frames_FHWC.shape == (NUM_FRAMES, SIDE, SIDE, 3)
    difference = np.abs(one.frames_FHWC.astype(int) - three.frames_FHWC)
    assert difference.max() <= 1
    assert one.frames_FHWC.std() > 10, "a flat picture proves nothing"


def test_report(one: Result, three: Result, tiny_model: Path) -> None:
    report = three.report
    assert report["version"] and report["model"]["name"] == str(tiny_model)
    assert report["timeline"][1] == {"start": 4, "prompt": "d e", "transition": 6}
    assert (report["seed"], report["ranks"], report["clips"]) == (0, 3, [[0, 4], [4, 8], [8, 13]])
    assert report["joins"] == [], "placement shows nowhere, not where clips meet either"
    assert report["num_frames"] == report["num_latent_frames"] == NUM_FRAMES
    settings = report["settings"]
    assert (settings["guidance_scale"], settings["global_frames"]) == (3, 3)
    assert (settings["device"], settings["bias_switch"]) == ("cpu", 800.0)
    seconds = report["seconds"]
    assert set(seconds) == {"load", "encode", "denoise", "decode", "write", "total"}
    assert sum(seconds.values()) - seconds["total"] <= seconds["total"]
    assert len(report["seconds_per_step"]) == STEPS
    assert sum(report["seconds_per_step"]) <= seconds["denoise"]
    received = report["bytes_received_per_step"]
    assert [len(steps) for steps in received] == [STEPS] * 3 and min(map(min, received)) > 0
    assert len(report["peak_memory_bytes"]) == 3 and min(report["peak_memory_bytes"]) > 0
    assert report["output"] == ["three", "three.safetensors"]
    assert one.report["bytes_received_per_step"] == [[0] * STEPS]


def test_without_a_terminal_it_says_two_lines_at_the_end(one: Result) -> None:
    assert one.stderr == ""
    where, phases = one.stdout.splitlines()
    assert where == f"one: {NUM_FRAMES} frames on 1 rank"
    assert all(phase in phases for phase in ("load", "encode", "denoise", "decode", "write"))


def test_progress_as_json_lines(three: Result) -> None:
    events = [json.loads(line) for line in three.stderr.splitlines()]
    phases = [event["name"] for event in events if event["event"] == "phase"]
    assert phases == ["load", "encode", "denoise", "latents", "decode"]
    steps = [(event["step"], event["of"]) for event in events if event["event"] == "step"]
    assert steps == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert [e["frames"] for e in events if e["event"] == "frames"][-1] == NUM_FRAMES
    assert events[-1]["event"] == "done"
    assert events[-1]["output"] == ["three", "three.safetensors"]


def in_process(cwd: Path, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The same command on one rank, inside this process."""
    monkeypatch.chdir(cwd)
    return cli.run(["generate", "--config", "run.yaml", *map(str, words)])


def test_flag_before_config_before_default(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = in_process(
        cwd,
        monkeypatch,
        *("x", "--seed", 4, "--fps", 5, "--num-inference-steps", 1, "--quiet"),
        *("--num-frames", 3, "--output", "short.mp4", "--report", "short.json"),
    )
    assert code == 0
    report = json.loads((cwd / "short.json").read_text())
    assert (report["settings"]["fps"], report["settings"]["seed"]) == (5.0, 4)
    assert (report["settings"]["height"], report["settings"]["dtype"]) == (SIDE, "float32")
    assert report["timeline"] == [{"start": 0, "prompt": "x", "transition": 0}]


def test_initial_latents_are_the_unit_noise(
    cwd: Path, one: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = initial_noise(0, range(NUM_FRAMES), (4, LATENT_SIDE, LATENT_SIDE))
    save_file({"latents": noise[0].transpose(0, 1).contiguous()}, cwd / "noise.safetensors")
    words = ["--output", "again", "--save-latents", "again.safetensors", "--quiet", "--seed", 9]
    assert in_process(cwd, monkeypatch, *words, "--initial-latents", "noise.safetensors") == 0
    again = load_file(cwd / "again.safetensors")["latents"]
    assert relative_difference(again, one.z_LCHW) < TOLERANCE


def test_saved_latents_can_be_started_from(
    cwd: Path, one: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--output", "other", "--save-latents", "other.safetensors", "--quiet"]
    assert in_process(cwd, monkeypatch, *words, "--initial-latents", "one.safetensors") == 0
    other = load_file(cwd / "other.safetensors")["latents"]
    assert other.shape == one.z_LCHW.shape
    assert relative_difference(other, one.z_LCHW) > 0.1


def test_mp4_shows_the_frames(cwd: Path, one: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_process(cwd, monkeypatch, "--output", "v.mp4", "--quiet") == 0
    with av.open(str(cwd / "v.mp4")) as container:
        stream = container.streams.video[0]
        frames_FHWC = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == FPS
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(NUM_FRAMES / FPS, abs=0.01)
    assert frames_FHWC.shape == one.frames_FHWC.shape
    # Single pixels of random colours: half of the colour is gone before the encoder sees it.
    luma = np.array([0.2126, 0.7152, 0.0722])
    error = (frames_FHWC.astype(float) - one.frames_FHWC) @ luma
    assert 10 * np.log10(255**2 / (error**2).mean()) > 30


def test_words_that_are_cut_off_are_warned_of(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["a " * 30, "--num-frames", 2, "--num-inference-steps", 1, "--overwrite"]
    assert in_process(cwd, monkeypatch, *words, "--output", "cut.gif", "--quiet") == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("video-infinity: warning: ") and "only the first part of" in line


def test_plan_says_what_generate_does(
    cwd: Path, three: Result, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(cwd)
    plan = ["plan", "--config", "run.yaml", "--nproc-per-node", "3"]
    before = set(cwd.iterdir())
    assert cli.run([*plan, "--log-json"]) == 0
    predicted = json.loads(capfd.readouterr().out)
    for key in ("num_frames", "num_latent_frames", "ranks", "clips"):
        assert predicted[key] == three.report[key]
    received = [steps[0] for steps in three.report["bytes_received_per_step"]]
    assert predicted["bytes_received_per_step"] == received
    assert cli.run(plan) == 0
    assert "8 to 12" in capfd.readouterr().out
    assert set(cwd.iterdir()) == before


def test_models_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models"]) == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in ("demo", "demo-wan", "videocrafter2"))
    assert all(name in listed for name in ("UNet3DConditionModel", "WanTransformer3DModel"))


def test_no_command_is_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    shown, _ = capfd.readouterr()
    assert cli.run(["--help"]) == 0
    assert capfd.readouterr().out == shown and "generate" in shown


def test_help_imports_nothing_slow(tmp_path: Path) -> None:
    finished = program.run(
        "generate",
        "--help",
        cwd=tmp_path,
        program=[program.PROGRAM[0], "-X", "importtime", *program.PROGRAM[1:]],
    )
    assert finished.returncode == 0 and "--num-frames" in finished.stdout
    imported = {line.split("|")[-1].strip() for line in finished.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "diffusers", "transformers", "av", "huggingface_hub"}


# How a run ends that does not end well. An older output stays as it was.


def begin(cwd: Path, *words: str, num_ranks: int, **more: Any) -> program.Running:
    (cwd / "old.mp4").write_text("precious")
    arguments = ["generate", "--config", "run.yaml", "--nproc-per-node", str(num_ranks), *ENDLESS]
    arguments += ["--output", "old.mp4", "--overwrite", "--save-latents", "z.safetensors", *words]
    return program.Running(arguments, cwd, **more)


def assert_nothing_of_it_is_left(running: program.Running, cwd: Path) -> None:
    assert running.all_gone()
    assert (cwd / "old.mp4").read_text() == "precious"
    assert not (cwd / "z.safetensors").exists()
    assert not list(cwd.glob(".*"))
    assert not list(Path(running.environment["TMPDIR"]).glob("video-infinity*"))


@pytest.fixture
def own_tmp(tmp_path: Path) -> dict[str, str]:
    return {"TMPDIR": str(tmp_path)}


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_one_rank(number: signal.Signals, cwd: Path, own_tmp: dict[str, str]) -> None:
    running = begin(
        cwd,
        "--log-json",
        num_ranks=1,
        environment=own_tmp,
        streams={"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)},  # nohup ignores it
    )
    running.wait_for("step")
    running.process.send_signal(number)
    finished = running.finish()
    assert finished.returncode == 130
    assert finished.stderr.splitlines()[-1] == "video-infinity: interrupted"
    assert_nothing_of_it_is_left(running, cwd)


def test_one_bar_on_a_terminal_and_ctrl_c_ends_all_ranks(
    cwd: Path, own_tmp: dict[str, str]
) -> None:
    ours, theirs = pty.openpty()
    running = begin(
        cwd,
        num_ranks=2,
        environment=own_tmp | {"TERM": "xterm", "COLUMNS": "100"},
        streams={
            **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
            "start_new_session": True,
            "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        },
    )
    os.close(theirs)
    shown = b""
    while b"frames/s" not in shown:
        shown += os.read(ours, 4096)
    os.write(ours, b"\x03")
    while chunk := read_terminal(ours):
        shown += chunk
    os.close(ours)
    assert running.process.wait(program.TIMEOUT_S) == 130
    assert b"denoise" in shown and b"/1000" in shown
    assert shown.count(b"\x1b[?25l") == 1, "the cursor is hidden once: one bar"
    assert shown.strip().endswith(b"video-infinity: interrupted")
    assert_nothing_of_it_is_left(running, cwd)


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has the other end open any more
        return b""


def test_a_killed_rank_ends_the_run(cwd: Path, own_tmp: dict[str, str]) -> None:
    running = begin(cwd, "--log-json", num_ranks=2, environment=own_tmp)
    running.wait_for("step")
    _, second = running.ranks()
    assert program.environment_of(second)["OMP_NUM_THREADS"] == "1"
    os.kill(second, signal.SIGKILL)
    finished = running.finish(timeout_s=30)
    assert finished.returncode == 1
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("video-infinity: error: rank 1 failed: killed by SIGKILL")
    assert "Traceback" not in finished.stderr
    assert_nothing_of_it_is_left(running, cwd)


def test_ranks_end_when_their_launcher_is_killed(cwd: Path, own_tmp: dict[str, str]) -> None:
    running = begin(cwd, "--log-json", num_ranks=2, environment=own_tmp)
    running.wait_for("step")
    running.process.kill()
    assert running.finish(timeout_s=30).returncode == -signal.SIGKILL
    assert_nothing_of_it_is_left(running, cwd)


BROKEN_RANK = """
import os
if os.environ.get("RANK") == "1":
    from video_infinity.engine import ClipRun
    def denoise(self):
        raise ArithmeticError("one and one is three")
    ClipRun.denoise = denoise
"""


def test_an_error_in_a_rank_is_shown_with_its_traceback(
    cwd: Path, tmp_path: Path, own_tmp: dict[str, str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_RANK)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    running = begin(cwd, num_ranks=2, environment=own_tmp | {"PYTHONPATH": path})
    finished = running.finish()
    assert finished.returncode == 1
    lines = [line for line in finished.stderr.splitlines() if not line.startswith("{")]
    assert lines[-1] == (
        "video-infinity: error: rank 1 failed: ArithmeticError: one and one is three"
    )
    assert lines[0].startswith("Traceback"), finished.stderr
    assert lines.count("ArithmeticError: one and one is three") == 1
    assert_nothing_of_it_is_left(running, cwd)
