"""How long every method takes and how much it holds: videos of one prompt, made again in turn.

    python -m benchmarks.quality --times --out DIR --page FILE

Rows of quality come from many sittings, and of machines with other work beside them, so that their
seconds are no comparison. Here every column makes one and the same video by processes of its own,
then each of them again, in an order that is drawn anew in every round, so that whatever else the
machine does falls on all alike. `times.jsonl` has a line for each; a run goes on where it was.
Videos that are not there are kept, for the contact sheets and to be measured.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, in_words
from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.report import (
    Job,
    Made,
    append_line,
    defaults_of,
    generate,
    is_made,
    keep_made,
    video_file,
    weights_of,
)

TIMES = "times.jsonl"
Times = Mapping[Job, Sequence[Made]]


def rounds_of(num_frames: int) -> int:
    """How often a video is made: a long one is its own average."""
    return 3 if num_frames < 128 else 2 if num_frames < 512 else 1


def timed(jobs: Sequence[Job]) -> list[Job]:
    """Of each method, its options and each length, the first prompt's."""
    first: dict[tuple[str, tuple[str, ...], str, int], Job] = {}
    for job in jobs:
        first.setdefault((job.method, job.options, job.model, job.num_frames), job)
    return list(first.values())


def machines_of(folder: Path) -> list[str]:
    """What timed videos of today's weights and defaults, without repetition."""
    return list(dict.fromkeys(row["machine"] for row in _rows(folder)))


def read_times(folder: Path) -> dict[Job, list[Made]]:
    """What was timed of today's weights and defaults, by jobs."""
    found: dict[Job, list[Made]] = {}
    for row in _rows(folder):
        made = row["made"]
        for name in ("borders", "peak_memory_bytes"):
            made[name] = tuple(made[name])
        found.setdefault(_job_of(row), []).append(Made(**made))
    return found


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of today's weights and defaults."""
    file = folder / TIMES
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last one of a run that was cut off
        if (row["made"]["weights"], row["defaults"]) == _today(_job_of(row)):
            yield row


def _job_of(row: Mapping[str, Any]) -> Job:
    return Job(**{**row["job"], "options": tuple(row["job"]["options"])})


def _today(job: Job) -> tuple[str, str]:
    return weights_of(job.model), defaults_of(job.model)


def take_times(
    jobs: Sequence[Job],
    folder: Path,
    end: float,
    make: Callable[[Job, Path], Made] = generate,
    say: Callable[[str], None] = print,
) -> None:
    """Time what was not, the shortest videos first; begins none after `end` on the clock.

    end  of `time.monotonic`
    """
    folder.mkdir(parents=True, exist_ok=True)
    had = {job: len(made) for job, made in read_times(folder).items()}
    chosen = timed(jobs)
    for num_frames in sorted({job.num_frames for job in chosen}):
        of_length = [job for job in chosen if job.num_frames == num_frames]
        for number in range(rounds_of(num_frames)):
            for job in random.Random(number).sample(of_length, len(of_length)):
                if had.get(job, 0) > number:
                    continue
                if time.monotonic() >= end:
                    return
                _time(job, folder, make, say)


def _time(
    job: Job, folder: Path, make: Callable[[Job, Path], Made], say: Callable[[str], None]
) -> None:
    kept = not is_made(folder, job)
    with tempfile.TemporaryDirectory() as scratch:
        path = video_file(folder, job) if kept else Path(scratch) / "timed.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            made = make(job, path)
        except EvaluationError as error:
            say(f"failed: {error}")
            return
    if kept:
        keep_made(folder, job, made)
    told = {"job": asdict(job), "made": asdict(made), "defaults": defaults_of(job.model)}
    told["machine"] = in_words(describe())
    append_line(folder / TIMES, json.dumps(told))
    say(f"timed: {job.method}, {job.num_frames} frames, {' '.join(job.options)}")
