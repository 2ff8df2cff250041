"""Beside VBench's own package: the same numbers from the same frames.

VIDEO_INFINITY_VBENCH_ENV names an environment with `vbench`, made as `docs/evaluation.md` says.
Without it, what runs VBench is skipped, and says so.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.evaluation.conftest import real_frames, real_video
from video_infinity.output import open_sink
from video_infinity_evaluation import EvaluationError, in_environment, vbench
from video_infinity_evaluation.environment import WEIGHTS, lay_out, run_vbench
from video_infinity_evaluation.features import IMAGENET, normalised, stacked
from video_infinity_evaluation.flow import top_motion
from video_infinity_evaluation.footage import open_footage
from video_infinity_evaluation.official import shorter_side

ENVIRONMENT = os.environ.get("VIDEO_INFINITY_VBENCH_ENV", "")
skip_without = pytest.mark.skipif(
    not ENVIRONMENT, reason="VIDEO_INFINITY_VBENCH_ENV names no environment with vbench"
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video as `generate` writes it."""
    path = tmp_path_factory.mktemp("ours") / "v.mp4"
    with open_sink(path, fps=8, width=64, height=64, overwrite=False) as sink:
        sink.write(np.ascontiguousarray(real_frames("bikes", 24, 160)[:, :64, :64]))
    return path


def flickering(video: Path) -> float:
    pairs = itertools.pairwise(open_footage(video))
    return vbench.flickering([float(cv2.absdiff(a, b).mean()) for a, b in pairs])


def test_what_vbench_gets_are_our_frames(ours: Path, tmp_path: Path) -> None:
    task = json.loads(lay_out(tmp_path, {ours: "a b"}, ["temporal_flickering"]).read_text())
    assert task["prompts"] == {"00000.mp4": "a b"}
    laid_out = open_footage(Path(task["videos"]) / "00000.mp4")
    assert laid_out.fps == 8
    for frame, own in zip(laid_out, open_footage(ours), strict=True):
        assert np.array_equal(frame, own)


def test_an_environment_that_is_none_is_told(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no bin/python.*docs/evaluation\.md"):
        run_vbench(tmp_path, {ours: ""})
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'no module named vbench' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(EvaluationError, match="vbench failed: no module named vbench"):
        run_vbench(tmp_path, {ours: ""})


def test_it_runs_from_any_directory_and_what_is_no_number_is_told(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in VBench's place says where it ran and what it was told."""
    python, cache = tmp_path / "env" / "bin" / "python", tmp_path / "cache"
    for name in (*WEIGHTS["imaging_quality"], *WEIGHTS["dynamic_degree"]):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).touch()
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\nmkdir "$4"\n'
        f'test "$VBENCH_CACHE_DIR" = {cache} || exit 1\n'
        'echo \'{"temporal_flickering": 0.5, "imaging_quality": NaN}\' > "$4/scores.json"\n'
    )
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VBENCH_CACHE_DIR", "cache")
    found = {m.name.removeprefix("vbench:"): m for m in run_vbench(Path("env"), {ours: ""})}
    assert found["temporal_flickering"].value == 0.5
    for name in ("imaging_quality", "dynamic_degree"):
        assert (found[name].value, found[name].note) == (None, "vbench gave no number")
    assert "dino_model" in found["subject_consistency"].note


def test_vbench_gets_the_rate_that_was_asked_for(ours: Path, tmp_path: Path) -> None:
    for number, (fps, told) in enumerate([(None, 8), (24.0, 24), (1e-9, 1 / 1001)]):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        task = json.loads(lay_out(scratch, {ours: ""}, [], fps).read_text())
        laid_out = open_footage(Path(task["videos"]) / "00000.mp4")
        assert laid_out.fps == pytest.approx(told, rel=1e-3)


@pytest.mark.parametrize("which", ["ours", "carphone_distorted"])
@pytest.mark.slow
@skip_without
def test_flickering_is_vbenchs(which: str, ours: Path) -> None:
    video = ours if which == "ours" else real_video(which)
    found = {m.name: m for m in run_vbench(Path(ENVIRONMENT), {video: "a b"})}
    value = found["vbench:temporal_flickering"].value
    assert value == pytest.approx(flickering(video), abs=1e-6)


IN_VBENCH = """
import json, runpy, sys, numpy as np, torch
from torch import nn
video, out = sys.argv[1:3]
ours = runpy.run_path(sys.argv[5])
ours["stub_operators"]()
class Tiny(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) + x.std((2, 3)) ** 2 - 0.7
    encode_image = forward
from vbench.subject_consistency import subject_consistency
from vbench.dynamic_degree import DynamicDegree
device = torch.device("cpu")
subject, _ = subject_consistency(Tiny(), [video], device, False)
flow = np.load(sys.argv[3])
score = DynamicDegree.get_score(None, torch.zeros(1, 3, *flow.shape[:2]),
                                torch.from_numpy(flow).permute(2, 0, 1)[None])
moves = []
for motion, height in json.loads(sys.argv[4]):
    degree = DynamicDegree.__new__(DynamicDegree)
    degree.set_params(np.zeros((1, 3, height, 2 * height)), len(motion) + 1)
    moves.append(degree.check_move(motion))
json.dump({"subject": subject, "top": score, "moves": moves}, open(out, "w"))
"""


@pytest.mark.slow
@skip_without
def test_formulas_that_want_weights_are_vbenchs_with_a_network_of_ours(
    ours: Path, tmp_path: Path
) -> None:
    """VBench's own functions, with three numbers of a frame for a network."""
    task = json.loads(lay_out(tmp_path, {ours: "a"}, []).read_text())
    rng = np.random.default_rng(0)
    field = rng.normal(0, 2, (40, 60, 2)).astype(np.float32)
    np.save(tmp_path / "flow.npy", field)
    cases = [
        (rng.uniform(0, 8 * side / 256, n).tolist(), side)
        for n in (1, 2, 3, 5, 9, 15, 24, 40)
        for side in (64, 240, 512)
    ]
    script = tmp_path / "script.py"
    script.write_text(IN_VBENCH)
    video, out = f"{task['videos']}/00000.mp4", tmp_path / "out.json"
    words = [str(script), video, str(out), str(tmp_path / "flow.npy"), json.dumps(cases)]
    words.append(in_environment.__file__)
    subprocess.run([f"{ENVIRONMENT}/bin/python", "-P", *words], check=True, timeout=250)
    theirs: dict[str, Any] = json.loads(out.read_text())
    seen = normalised(shorter_side(stacked(list(open_footage(ours))), 224, "bilinear"), IMAGENET)
    features = (seen.mean((2, 3)) + seen.std((2, 3)) ** 2 - 0.7).numpy()
    assert theirs["subject"] == pytest.approx(vbench.consistency(features), abs=1e-5)
    assert theirs["top"] == pytest.approx(top_motion(field), rel=1e-5)
    assert theirs["moves"] == [vbench.is_dynamic(motion, side) for motion, side in cases]
    assert {True, False} == set(theirs["moves"])
