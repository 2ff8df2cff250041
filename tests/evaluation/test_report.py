"""The report: made once, gone on with, and told with its intervals."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import REAL, jobs_of, page, render_real
from video_infinity_evaluation import Backends, EvaluationError
from video_infinity_evaluation.pages import contact_sheet, summary, tables
from video_infinity_evaluation.report import (
    Job,
    Row,
    clip_borders,
    generate,
    read_row,
    run_jobs,
    video_file,
)
from video_infinity_evaluation.statistics import interval

PROMPTS = (
    "a red seven moving left on a navy background",
    "a blue three moving up on a black background",
)
JOBS = [Job(method, prompt, 1, 12, 3) for prompt in PROMPTS for method in (REAL, "shuffled")]


def shuffled(job: Job, path: Path) -> Sequence[int]:
    """A method that shows frames of another prompt: the world's own, upside down."""
    other = Job(job.method, PROMPTS[1 - PROMPTS.index(job.prompt)], job.seed, job.num_frames, 3)
    return render_real(other, path)


def refuse(job: Job, path: Path) -> Sequence[int]:
    raise EvaluationError(f"{job.method}: cannot")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def rows(folder: Path, backends: Backends) -> list[Row]:
    makers = {REAL: render_real, "shuffled": shuffled}
    return run_jobs(JOBS, folder, makers, backends, lambda _: None)


def test_a_row_holds_the_job_the_borders_and_what_was_measured(rows: list[Row]) -> None:
    assert [row["job"]["method"] for row in rows] == [REAL, "shuffled"] * 2
    for row in rows:
        assert row["borders"] == [4, 8]
        assert row["seconds"] > 0
        right = row["measures"]["digit right (frames)"]["value"]
        assert right == (1 if row["job"]["method"] == REAL else 0)


def test_what_is_there_is_not_made_again(folder: Path, rows: list[Row], backends: Backends) -> None:
    said: list[str] = []
    makers = {REAL: refuse, "shuffled": refuse}
    assert run_jobs(JOBS, folder, makers, backends, said.append) == rows
    assert said == []
    row_file = folder / "rows" / f"{JOBS[0].key()}.json"
    whole = row_file.read_bytes()
    row_file.write_bytes(whole[: len(whole) // 2])
    assert read_row(folder, JOBS[0]) is None
    again = run_jobs(JOBS, folder, makers, backends, said.append)
    assert again[0]["measures"] == rows[0]["measures"], "from the video, which was there"
    assert len(said) == 1


def test_one_that_fails_is_told_and_the_others_go_on(tmp_path: Path, backends: Backends) -> None:
    said: list[str] = []
    makers = {REAL: render_real, "shuffled": refuse}
    rows = run_jobs(JOBS[:2], tmp_path, makers, backends, said.append)
    assert [row["job"]["method"] for row in rows] == [REAL]
    assert "failed: shuffled: cannot" in said


def test_another_job_has_another_key() -> None:
    keys = {job.key() for job in JOBS}
    assert len(keys) == len(JOBS)
    assert Job("a", "b", 1, 12, 3, options=("--x",)).key() != Job("a", "b", 1, 12, 3).key()


def test_tables_have_means_intervals_and_counts(rows: list[Row]) -> None:
    text = tables(rows)
    assert "## 12 frames" in text and "2 prompts, 1 seeds each" in text
    assert f"| measure | good | {REAL} | shuffled |" in text
    assert "| digit right (frames) | ↑ | 1 ± 0 (2) | 0 ± 0 (2) |" in text
    values = [row["measures"]["temporal_flickering"]["value"] for row in rows[::2]]
    assert summary(rows, REAL, "temporal_flickering") == interval(values)
    assert f"| temporal_flickering | ↑ | {interval(values)} (2) |" in text
    assert "| subject_consistency* |" in text and "not with VBench" in text
    assert "aesthetic_quality" not in text, "it was not measured"


def test_a_sheet_has_a_row_for_each_video(folder: Path, rows: list[Row]) -> None:
    data = contact_sheet([video_file(folder, job) for job in JOBS[:2]], 4, 32)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (4 * 34, 2 * 34)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pixels[:32, :32] - pixels[34:66, :32]).mean() > 5


def test_the_page_tells_how_to_repeat_it(rows: list[Row]) -> None:
    arguments = Namespace(
        methods=["shuffled"], num_frames=[12], prompts=2, seeds=1, ranks=3, steps=None
    )
    text = page(rows, arguments, "results.png")
    command = "--methods shuffled --num-frames 12 --prompts 2 --seeds 1 --ranks 3`"
    assert command in text and "images/results.png" in text and "Machine: " in text
    jobs = jobs_of(arguments)
    assert [job.method for job in jobs] == ["shuffled", REAL] * 2
    assert len({job.prompt for job in jobs}) == 2


@pytest.mark.parametrize(
    ("latent", "pixel", "clips", "borders"),
    [
        (64, 64, [[0, 32], [32, 64]], [32]),
        (21, 81, [[0, 7], [7, 14], [14, 21]], [25, 53]),
        (1, 1, [[0, 1]], []),
    ],
)
def test_borders_are_in_pixel_frames(
    latent: int, pixel: int, clips: list[list[int]], borders: list[int]
) -> None:
    report = {"num_latent_frames": latent, "num_frames": pixel, "clips": clips}
    assert clip_borders(json.loads(json.dumps(report))) == borders


@pytest.mark.slow
def test_methods_of_the_command_are_made_and_measured(tmp_path: Path, backends: Backends) -> None:
    options = ("--num-inference-steps", "6")
    methods = ("clip-parallel", "independent", "no-such-method")
    jobs = [Job(method, PROMPTS[0], 1, 24, 2, options=options) for method in methods]
    said: list[str] = []
    rows = run_jobs(jobs, tmp_path, dict.fromkeys(methods, generate), backends, said.append)
    assert [row["job"]["method"] for row in rows] == ["clip-parallel", "independent"]
    assert all(row["borders"] == [12] for row in rows)
    ratios = [row["measures"]["seam_ratio_motion"]["value"] for row in rows]
    assert ratios[1] > 1.5 * ratios[0], "clips made each by itself have a seam"
    assert any("no-such-method" in line for line in said)
