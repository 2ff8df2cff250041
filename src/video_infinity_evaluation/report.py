"""Many videos, made and measured, one row for each; what is there already is not done again.

run_jobs(jobs, folder, {"clip-parallel": generate, "independent": generate})

FOLDER/videos/KEY.mp4    a video, whole or absent
FOLDER/rows/KEY.json     its job and its measures; written last
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from video_infinity.destination import atomic_write_bytes
from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.measuring import score
from video_infinity_evaluation.passing import Backends, load_backends
from video_infinity_evaluation.scores import Group

FORMAT = 1
"""Rows of another format are measured again."""


@dataclass(frozen=True)
class Job:
    """One video. options: further words of `generate`, such as ("--local-frames", "4")."""

    method: str
    prompt: str
    seed: int
    num_frames: int
    ranks: int = 1
    model: str = "demo"
    options: tuple[str, ...] = ()

    def key(self) -> str:
        """A name for files, the same for the same job alone."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:10]
        return f"{self.method}-{self.num_frames}-{self.seed}-{digest}"


Maker = Callable[[Job, Path], Sequence[int]]
"""Writes the video of a job, and returns the first frames of its clips but the first.
Raises EvaluationError if it cannot be made."""
Row = Mapping[str, Any]
"""`job`, `borders`, `seconds` of making it (null if it was there), and `measures`."""


def generate(job: Job, path: Path) -> Sequence[int]:
    """Make a video by the command, with each rank in a process of its own."""
    report = path.with_suffix(".json")
    words = [
        *(sys.executable, "-m", "video_infinity", "generate"),
        *("--model", job.model, "--method", job.method, "--num-frames", str(job.num_frames)),
        *("--seed", str(job.seed), "--nproc-per-node", str(job.ranks), "--output", str(path)),
        *("--report", str(report), "--overwrite", "--quiet", *job.options, "--", job.prompt),
    ]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EvaluationError(f"{job.method}: {last}")
    return clip_borders(json.loads(report.read_text(encoding="utf-8")))


def clip_borders(report: Mapping[str, Any]) -> list[int]:
    """First pixel frames of all clips but the first, of a report of `generate`.

    A clip is told in latent frames; the first of these can stand for one pixel frame, and every
    other for more.
    """
    latent, pixel = int(report["num_latent_frames"]), int(report["num_frames"])
    starts = [int(start) for start, _ in report["clips"]][1:]
    if latent == pixel:
        return starts
    ratio = max(1, round((pixel - 1) / max(1, latent - 1)))
    return [1 + ratio * (start - 1) for start in starts]


def run_jobs(
    jobs: Iterable[Job],
    folder: Path,
    makers: Mapping[str, Maker],
    backends: Backends | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Make and measure what is not there yet.

    makers  by the names of methods
    Returns the rows of all jobs that could be made; `say` is told of each and of those that failed.
    """
    for name in ("videos", "rows"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for job in jobs:
        row = read_row(folder, job)
        if row is None:
            backends = backends or load_backends()
            try:
                row = _make_row(job, folder, makers[job.method], backends)
            except EvaluationError as error:
                say(f"failed: {error}")
                continue
            say(f"{job.method}, {job.num_frames} frames, seed {job.seed}: {job.prompt}")
        rows.append(row)
    return rows


def read_row(folder: Path, job: Job) -> Row | None:
    """The row of a job, if it is there whole and of today's format."""
    try:
        row: dict[str, Any] = json.loads(_row_file(folder, job).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = row.get("format") == FORMAT and row.get("job") == json.loads(json.dumps(asdict(job)))
    return row if known else None


def video_file(folder: Path, job: Job) -> Path:
    """Where the video of a job is."""
    return folder / "videos" / f"{job.key()}.mp4"


def _row_file(folder: Path, job: Job) -> Path:
    return folder / "rows" / f"{job.key()}.json"


def _make_row(job: Job, folder: Path, make: Maker, backends: Backends) -> Row:
    path, borders_file = video_file(folder, job), video_file(folder, job).with_suffix(".borders")
    seconds = None
    if not path.exists() or not borders_file.exists():
        begin = time.perf_counter()
        borders = list(make(job, path))
        seconds = time.perf_counter() - begin
        atomic_write_bytes(borders_file, json.dumps(borders).encode())
    borders = json.loads(borders_file.read_text())
    scores = score(path, job.prompt, borders=borders, backends=backends)
    row = {
        "format": FORMAT,
        "job": asdict(job),
        "borders": borders,
        "seconds": seconds,
        "measures": {measure.name: measure.as_dict() for measure in scores.measures},
    }
    atomic_write_bytes(_row_file(folder, job), json.dumps(row, indent=1).encode())
    result: dict[str, Any] = json.loads(_row_file(folder, job).read_text())
    return result


def measure_names(rows: Sequence[Row], group: Group) -> list[str]:
    """Measures of a group that any row has a value of, in the order of the first row."""
    names = dict.fromkeys(
        name
        for row in rows
        for name, told in row["measures"].items()
        if told["group"] == group and told["value"] is not None
    )
    return list(names)
