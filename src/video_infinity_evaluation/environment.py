"""VBench itself, in an environment of its own, on videos of ours.

The package `vbench` 0.1.5 pins numpy < 2 and transformers 4.33, so it cannot live beside us. This
lays out videos and prompts as it wants them, runs it there (`in_environment.py`), and reads what it
found. `docs/evaluation.md` says how to make the environment.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.footage import open_footage
from video_infinity_evaluation.scores import Measure
from video_infinity_evaluation.vbench import DIMENSIONS

RUNNER = Path(__file__).with_name("in_environment.py")
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "subject_consistency": (
        "dino_model/facebookresearch_dino_main",
        "dino_model/dino_vitbase16_pretrain.pth",
    ),
    "background_consistency": ("clip_model/ViT-B-32.pt",),
    "temporal_flickering": (),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "aesthetic_quality": (
        "clip_model/ViT-L-14.pt",
        "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    ),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
}
"""What each dimension wants below VBench's cache, which it would fetch from the network."""
LABEL = "the package vbench"


def python_of(environment: Path) -> Path:
    """The environment's interpreter, found from any directory. Its link is not followed: what a
    virtual environment holds is found from where the link is.

    Raises EvaluationError if there is none.
    """
    python = environment.absolute() / "bin" / "python"
    if not python.is_file():
        raise EvaluationError(
            f"--vbench-env {environment} has no bin/python; make it as docs/evaluation.md says"
        )
    return python


def run_vbench(
    environment: Path,
    videos: Mapping[Path, str],
    fps: float | None = None,
    timeout_s: float = 24 * 3600,
) -> tuple[Measure, ...]:
    """Every dimension of the paper's table whose weights are there, by VBench's own code.

    environment  a virtual environment with vbench; its weights are in $VBENCH_CACHE_DIR, or in
                 ~/.cache/vbench, as VBench has them
    videos       prompts by the videos' paths; each is handed over frame by frame, without loss
    fps          in place of what the videos say
    Returns a measure `vbench:DIMENSION` for each, means over the videos; without a value, and with
    the reason, where a weight is not there or VBench gave no number. Nothing is fetched.
    Raises EvaluationError if there is no such environment, or VBench fails.
    """
    python = python_of(environment)
    cache = Path(os.environ.get("VBENCH_CACHE_DIR") or Path.home() / ".cache" / "vbench").absolute()
    missing = {
        dimension: [name for name in WEIGHTS[dimension] if not (cache / name).exists()]
        for dimension in DIMENSIONS
    }
    ready = [dimension for dimension in DIMENSIONS if not missing[dimension]]
    with tempfile.TemporaryDirectory() as scratch:
        task = lay_out(Path(scratch), videos, ready, fps)
        results = _run(python, task, cache, timeout_s)
    measures = []
    for dimension in DIMENSIONS:
        value, note = results.get(dimension), ""
        if missing[dimension]:
            note = f"no {missing[dimension][0]} in its cache"
        elif value is None:
            note = "vbench gave no number"
        measures.append(Measure(f"vbench:{dimension}", value, "vbench", "high", LABEL, note))
    return tuple(measures)


def lay_out(
    scratch: Path, videos: Mapping[Path, str], dimensions: list[str], fps: float | None = None
) -> Path:
    """A folder of .mp4, one prompt for each by its name, and the task as JSON; returns its path."""
    folder = scratch / "videos"
    folder.mkdir()
    prompts = {}
    for number, (video, prompt) in enumerate(videos.items()):
        name = f"{number:05d}.mp4"
        _encode(video, folder / name, fps)
        prompts[name] = prompt
    task = scratch / "task.json"
    task.write_text(
        json.dumps({"videos": str(folder), "prompts": prompts, "dimensions": dimensions})
    )
    return task


def _encode(video: Path, path: Path, fps: float | None) -> None:
    """The very frames that we score: H.264 of RGB, without loss.

    OpenCV before version 5, which VBench reads with, takes every file for BT.601.
    """
    footage = open_footage(video, fps)
    first = next(iter(footage), None)
    if first is None:
        raise EvaluationError(f"{video} has no frames")
    try:
        with av.open(str(path), "w") as container:
            rate = max(Fraction(footage.fps).limit_denominator(1001), Fraction(1, 1001))
            stream = container.add_stream("libx264rgb", rate, {"qp": "0", "preset": "fast"})
            assert isinstance(stream, av.VideoStream)
            stream.pix_fmt = "rgb24"
            stream.height, stream.width = first.shape[:2]
            for frame in open_footage(video):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        cause = getattr(error, "strerror", None) or error
        raise EvaluationError(f"{video} could not be laid out for vbench: {cause}") from error


def _run(python: Path, task: Path, cache: Path, timeout_s: float) -> dict[str, float]:
    """VBench's scores, of those dimensions for which it has a number."""
    out = task.parent / "out"
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    clean["VBENCH_CACHE_DIR"] = str(cache)
    try:
        done = subprocess.run(
            [str(python), "-P", str(RUNNER), str(task), str(out)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=clean,
            cwd=task.parent,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EvaluationError(f"--vbench-env: {python} did not run: {error}") from error
    found = out / "scores.json"
    if done.returncode or not found.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EvaluationError(f"--vbench-env: vbench failed: {last[:300]}")
    scores: dict[str, Any] = json.loads(found.read_text())
    return {name: float(value) for name, value in scores.items() if math.isfinite(value)}
