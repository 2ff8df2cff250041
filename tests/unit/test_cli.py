"""The command line: which options there are, and how they reach the ranks."""

from __future__ import annotations

from typing import Any

import pytest

from video_infinity import cli

OF_THE_ISSUE = [
    *("model", "unet", "revision", "lora", "timeline", "num-frames", "seed"),
    *("num-inference-steps", "guidance-scale", "guidance-scale-2", "eta"),
    *("negative-prompt", "height", "width", "fps", "fps-condition", "local-frames"),
    *("global-frames", "global-rule"),
    *("local-bias", "global-bias", "bias-switch", "vae-tiling", "nproc-per-node", "parallel"),
    *("sequential-guidance", "timeout"),
    *(
        "run-dir",
        "checkpoint-every",
        "max-restarts",
        "method",
        "noise",
        "window-frames",
        "stride-frames",
        "conditioning",
        "front-frames",
        "front-span",
        "without",
        "device",
        "dtype",
        "offload",
        "compile",
        "output",
    ),
    *("save-latents", "initial-latents", "report", "config", "overwrite", "quiet", "log-json"),
]


def parse(*words: str) -> Any:
    return cli.app(args=list(words), standalone_mode=False)


def test_every_promised_option_is_there() -> None:
    assert [name.replace("_", "-") for name in cli.OPTIONS] == OF_THE_ISSUE


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_help_shows_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    shown = capsys.readouterr().out.split()
    assert {f"--{name}" for name in OF_THE_ISSUE} <= set(shown)


def test_values_stay_text() -> None:
    call = parse("generate", "a b", "--num-frames", "9", "--seed=-3", "--overwrite")
    assert call.command == "generate"
    assert call.options == {
        "prompt": "a b",
        "num_frames": "9",
        "seed": "-3",
        "overwrite": True,
    }


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "a 'quoted' prompt", "--seed", "-3", "--quiet"],
        ["generate", "--negative-prompt=--quiet", "--", "--help"],
        ["generate", "--timeline", "a b.yaml", "--output="],
        ["plan", ""],
        ["models"],
        ["resume", "some place/video.mp4.run", "--nproc-per-node=3", "--quiet"],
        ["resume", "--", "-odd"],
    ],
)
def test_ranks_get_the_same_call(words: list[str]) -> None:
    call = parse(*words)
    assert parse(*call.argv()) == call


def test_an_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_carry_out", interrupt)
    assert cli.run(["models"]) == 130
    assert capsys.readouterr().err == "video-infinity: interrupted\n"


def test_a_bug_is_1_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise ArithmeticError("one and one\nis three")

    monkeypatch.setattr(cli, "_carry_out", fail)
    assert cli.run(["models"]) == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("Traceback")
    assert last == "video-infinity: error: ArithmeticError: one and one is three"
