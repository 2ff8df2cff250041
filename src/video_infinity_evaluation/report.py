"""Many videos, made and measured, one row for each; what is there already is not done again.

run_jobs(jobs, folder, {"clip-parallel": generate, "independent": generate})

FOLDER/videos/KEY.mp4    a video, whole or absent
FOLDER/videos/KEY.made   what its maker said of it
FOLDER/rows.jsonl        a line for each job, with its measures; written last

What was made by other weights than those that a model has today is made again, and so is a video by
other defaults that has no row yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from video_infinity.destination import atomic_write_bytes
from video_infinity.errors import ModelError
from video_infinity.launch import local_environment
from video_infinity.recovery import defaults_digests, weights_digests
from video_infinity.windows import even_spans, joins_of
from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.measuring import score
from video_infinity_evaluation.passing import Backends, load_backends
from video_infinity_evaluation.scores import Group

ROWS = "rows.jsonl"
FORMAT = 4
"""Rows of another format are measured again."""
TOLD = (
    *("num_inference_steps", "guidance_scale", "eta", "local_frames", "global_frames"),
    *("global_rule", "local_bias", "global_bias", "noise", "window_frames", "stride_frames"),
    *("front_frames", "front_span", "conditioning"),
)
"""Settings that a row keeps, for defaults change and rows stay."""


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


@dataclass(frozen=True)
class Made:
    """What a maker says of its video.

    borders            first frames of what was made apart, but the very first; where nothing was,
                       of clips as long as the model was trained on
    seconds            of its parts, as `generate` reports them
    peak_memory_bytes  of every rank, above the model
    settings           those of TOLD, as they were in force
    weights            `weights_of` the model; "" where no model was used
    """

    borders: tuple[int, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""


Maker = Callable[[Job, Path], Made]
"""Writes the video of a job. Raises EvaluationError if it cannot be made."""
Row = Mapping[str, Any]
"""`job`, `made` and `measures`, as JSON has them."""


def generate(job: Job, path: Path) -> Made:
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
    return made_of(json.loads(report.read_text(encoding="utf-8")), job.model)


def made_of(report: Mapping[str, Any], model: str) -> Made:
    """What a report of `generate` says."""
    settings = {name: report["settings"][name] for name in TOLD}
    peaks = tuple(report["peak_memory_bytes"])
    latents, frames = report["num_latent_frames"], report["num_frames"]
    borders = pixel_frames(report["joins"], latents, frames) or known_clips(
        latents, frames, report["model"]["trained_frames"]
    )
    return Made(borders, report["seconds"], peaks, settings, weights_of(model))


@cache
def weights_of(model: str) -> str:
    """A digest of a model's weights alone: its defaults may change, and rows keep their settings.

    Raises ModelError for a model that is not there.
    """
    return _digest(weights_digests(model))


@cache
def defaults_of(model: str) -> str:
    """A digest of all else that a model has today.

    Raises ModelError for a model that is not there.
    """
    return _digest(defaults_digests(model))


def _digest(told: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def make_together(jobs: Sequence[Job], folder: Path) -> None:
    """Make what is not there of jobs of one model and number of ranks, by processes that load the
    model once. What fails is left to be made, and to be told, by itself."""
    todo = [job for job in jobs if not is_made(folder, job)]
    if len(todo) < 2:
        return
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    told = {"folder": str(folder), "jobs": [asdict(job) for job in todo]}
    ranks = todo[0].ranks
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "jobs.json"
        source.write_text(json.dumps(told), encoding="utf-8")
        words = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(ranks), "-m", "video_infinity_evaluation.batch", str(source)),
        ]
        environment = os.environ | local_environment(ranks)
        subprocess.run(words, capture_output=True, env=environment, check=False)


def borders_of(report: Mapping[str, Any]) -> tuple[int, ...]:
    """First pixel frames of what a report of `generate` says was made apart, or else of its ranks'
    clips; the very first is left out."""
    latents, frames = int(report["num_latent_frames"]), int(report["num_frames"])
    clips = [int(start) for start, _ in report["clips"]][1:]
    return pixel_frames([int(join) for join in report["joins"]] or clips, latents, frames)


def known_clips(latents: int, frames: int, trained_frames: int) -> tuple[int, ...]:
    """The first pixel frames, but the very first, of even clips of at most as many latent frames as
    a model was trained on, in a video of so many latent and pixel frames."""
    return pixel_frames(joins_of(even_spans(latents, trained_frames)), latents, frames)


def pixel_frames(latent_frames: Sequence[int], latents: int, frames: int) -> tuple[int, ...]:
    """The first pixel frames of latent frames from 1 on, in a video of so many of both.

    The first latent frame can stand for one pixel frame, and every other for more.
    """
    if latents == frames:
        return tuple(latent_frames)
    ratio = max(1, round((frames - 1) / max(1, latents - 1)))
    return tuple(1 + ratio * (latent - 1) for latent in latent_frames)


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
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    known, rows = read_rows(folder), []
    for job in jobs:
        row = known.get(job)
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


def read_rows(folder: Path) -> dict[Job, Row]:
    """The rows that are there whole, of today's format and weights, by their jobs."""
    try:
        lines = (folder / ROWS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    rows: dict[Job, Row] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last one of a run that was cut off
        if row.get("format") == FORMAT:
            job = Job(**{**row["job"], "options": tuple(row["job"]["options"])})
            if _is_current(job, row["made"]):
                rows[job] = row
    return rows


def video_file(folder: Path, job: Job) -> Path:
    """Where the video of a job is."""
    return folder / "videos" / f"{job.key()}.mp4"


def is_made(folder: Path, job: Job) -> bool:
    """Whether there is a video by today's weights and defaults, and what its maker said of it."""
    path = video_file(folder, job)
    told = path.with_suffix(".made")
    if not path.exists() or not told.exists():
        return False
    made = json.loads(told.read_text())
    return _is_current(job, made) and made.get("defaults") == _defaults(made["weights"], job)


def _is_current(job: Job, made: Mapping[str, Any]) -> bool:
    """Whether the model's weights are those it was made by; not if the model is gone, or if it was
    made before weights were noted."""
    weights = made.get("weights")
    if weights == "":
        return True
    try:
        return weights == weights_of(job.model)
    except ModelError:
        return False


def _defaults(weights: str, job: Job) -> str:
    """Today's, where weights were used at all."""
    return defaults_of(job.model) if weights else ""


def keep_made(folder: Path, job: Job, made: Made) -> None:
    """Put what a maker said beside its video."""
    file = video_file(folder, job).with_suffix(".made")
    told = {**asdict(made), "defaults": _defaults(made.weights, job)}
    atomic_write_bytes(file, json.dumps(told).encode())


def _make_row(job: Job, folder: Path, make: Maker, backends: Backends) -> Row:
    path = video_file(folder, job)
    if not is_made(folder, job):
        keep_made(folder, job, make(job, path))
    made = json.loads(path.with_suffix(".made").read_text())
    del made["defaults"]
    scores = score(path, job.prompt, borders=made["borders"], backends=backends)
    row = {
        "format": FORMAT,
        "job": asdict(job),
        "made": made,
        "measures": {measure.name: measure.as_dict() for measure in scores.measures},
    }
    line = json.dumps(row)
    append_line(folder / ROWS, line)
    result: dict[str, Any] = json.loads(line)
    return result


def append_line(file: Path, line: str) -> None:
    """One more line, on one of its own even where the last was cut off."""
    with file.open("ab+") as rows:
        if rows.tell():
            rows.seek(-1, os.SEEK_END)
            if rows.read(1) != b"\n":
                rows.write(b"\n")
        rows.write(line.encode() + b"\n")
        rows.flush()
        os.fsync(rows.fileno())


def measure_names(rows: Sequence[Row], group: Group) -> list[str]:
    """Measures of a group that any row has a value of, in the order of the first row."""
    names = dict.fromkeys(
        name
        for row in rows
        for name, told in row["measures"].items()
        if told["group"] == group and told["value"] is not None
    )
    return list(names)
