"""Promise 4: memory grows in proportion to the frames of a rank, and to nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_tiny_model

PIXELS = 16
MEASURABLE = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "524288"}
"""Freed tensors go back to the system at once, so that the peak is what was held, and not what
the allocator kept."""


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], list[int]]:
    """Measured peaks in bytes per rank, by (frames, ranks)."""
    directory = tmp_path_factory.mktemp("growth")
    model = save_tiny_model(directory / "model")
    runs = ((128, 1), (256, 1), (512, 1), (512, 2))
    return {run: _peaks(model, directory / f"{run}.json", *run) for run in runs}


def _peaks(model: Path, report: Path, num_frames: int, num_ranks: int) -> list[int]:
    subprocess.run(
        [
            *(sys.executable, "-m", "video_infinity", "generate", "a b", "--quiet"),
            *("--model", str(model), "--height", str(PIXELS), "--width", str(PIXELS)),
            *("--num-frames", str(num_frames), "--nproc-per-node", str(num_ranks)),
            *("--num-inference-steps", "1", "--report", str(report)),
            *("--output", str(report.with_suffix(".mp4"))),
        ],
        check=True,
        env=os.environ | MEASURABLE,
        timeout=280,
    )
    peaks: list[int] = json.loads(report.read_text())["peak_memory_bytes"]
    return peaks


def test_memory_doubles_with_the_frames(peaks: dict[tuple[int, int], list[int]]) -> None:
    first, second, third = (peaks[frames, 1][0] for frames in (128, 256, 512))
    assert 1.5 < second / first < 2.3
    assert 1.7 < third / second < 2.3


def test_memory_of_a_rank_is_that_of_its_own_frames(
    peaks: dict[tuple[int, int], list[int]],
) -> None:
    for peak in peaks[512, 2]:
        assert 0.8 < peak / peaks[256, 1][0] < 1.3
