"""Whether a run can be gone on with: what has changed is refused or told of, by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from video_infinity import cli
from video_infinity.adapters import inspect_model
from video_infinity.config import Request
from video_infinity.errors import ResumeError
from video_infinity.options import read_request
from video_infinity.preflight import prepare
from video_infinity.recovery import (
    check_request,
    check_same,
    manifest_of,
    request_of,
    version_warnings,
)
from video_infinity.rundir import RunDir
from video_infinity.timeline import PromptTimeline


@pytest.fixture
def request_(tiny_model: Path, tmp_path: Path) -> Request:
    save_file({"latents": torch.ones(6, 4, 4, 4)}, tmp_path / "z.safetensors")
    options = {
        "model": str(tiny_model),
        "prompt": "a",
        "num_frames": 6,
        "device": "cpu",
        "output": str(tmp_path / "v.mp4"),
        "initial_latents": str(tmp_path / "z.safetensors"),
    }
    asked = read_request(options)
    return prepare(asked, inspect_model(asked.model), 2)


@pytest.fixture
def manifest(request_: Request) -> dict[str, Any]:
    made = manifest_of(request_, inspect_model(request_.model), 2)
    return made | {"run": "a run", "created": 0.0, "format": 1}


def test_what_has_not_changed_is_the_same(request_: Request, manifest: dict[str, Any]) -> None:
    again = request_of(manifest, {})
    assert again.timeline == request_.timeline and again.video == request_.video
    check_same(manifest, again)
    check_request(manifest, request_)
    assert version_warnings(manifest) == []


@pytest.mark.parametrize("change", ["other", "gone"])
def test_other_initial_latents_are_refused(
    change: str, request_: Request, manifest: dict[str, Any]
) -> None:
    latents = request_.video.initial_latents
    assert latents is not None
    if change == "gone":
        latents.unlink()
    else:
        save_file({"latents": torch.zeros(6, 4, 4, 4)}, latents)
    with pytest.raises(ResumeError, match=r"z\.safetensors is not the file that the run began"):
        check_same(manifest, request_)


def test_another_request_is_refused(request_: Request, manifest: dict[str, Any]) -> None:
    other = replace(request_, video=replace(request_.video, seed=3))
    with pytest.raises(ResumeError, match=r"--seed is 3, and the run .* began with 0"):
        check_request(manifest, other)
    other = replace(request_, timeline=PromptTimeline.single("b"))
    with pytest.raises(ResumeError, match="the prompts differ"):
        check_request(manifest, other)


def test_other_versions_are_told_of(manifest: dict[str, Any]) -> None:
    before = manifest["versions"] | {"torch": "1.0"}
    (line,) = version_warnings(manifest | {"versions": before})
    assert "torch 1.0 then" in line and "diffusers" not in line


def test_a_run_that_goes_on_cannot_be_gone_on_with(
    request_: Request,
    manifest: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run_dir = RunDir(tmp_path / "v.mp4.run")
    run_dir.create(manifest, overwrite=False)
    assert cli.run(["resume", str(run_dir.path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "is in use by a run that goes on" in line and "video-infinity cancel" in line
    assert not (tmp_path / "v.mp4").exists()


def test_a_run_that_is_done_is_not_done_again(
    manifest: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(tmp_path / "v.mp4.run")
    run_dir.create(manifest, overwrite=False)
    video = tmp_path / "v.mp4"
    video.write_text("precious")
    run_dir.tell("ready", made={"path": str(video), "inode": video.stat().st_ino})
    assert cli.run(["resume", str(run_dir.path)]) == 0
    assert "this run is finished" in capfd.readouterr().out
    assert video.read_text() == "precious"
