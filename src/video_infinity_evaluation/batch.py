"""Many videos of one model by one world of processes, which loads the model once.

    torchrun --standalone --nproc-per-node 2 -m video_infinity_evaluation.batch JOBS.json

JOBS.json holds {"folder": DIR, "jobs": [...]}; `report.make_together` writes it. A job that cannot
be done ends the batch: its error is told where it is made by itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from video_infinity import VideoInfinityPipeline
from video_infinity.memory import give_back_large_tensors
from video_infinity.progress import silent
from video_infinity_evaluation.report import Job, keep_made, made_of, video_file, weights_of


def options_of(job: Job) -> dict[str, Any]:
    """The words of a job as keywords of the pipeline."""
    names = [word.removeprefix("--").replace("-", "_") for word in job.options[::2]]
    values = [yaml.safe_load(word) for word in job.options[1::2]]
    return dict(zip(names, values, strict=True))


def make(pipe: VideoInfinityPipeline, job: Job, folder: Path, *, is_first: bool) -> None:
    """One video, by all ranks; rank 0 writes it.

    is_first  in these processes: later ones reuse memory, and so say nothing of their peak
    """
    call: dict[str, Any] = {"num_frames": job.num_frames, "seed": job.seed, **options_of(job)}
    with pipe(job.prompt, observer=silent, method=job.method, **call) as video:
        path, begin = video_file(folder, job), time.perf_counter()
        video.save(path, overwrite=True)
        told = video.report
        told["seconds"]["write"] += time.perf_counter() - begin
    if int(os.environ["RANK"]) == 0:
        if not is_first:
            told["peak_memory_bytes"] = []
        keep_made(folder, job, made_of(told, job.model))


def main() -> None:
    """The command's entry."""
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    jobs = [Job(**{**job, "options": tuple(job["options"])}) for job in told["jobs"]]
    give_back_large_tensors()
    weights_of(jobs[0].model)  # noted before they are read: what is exported meanwhile is other
    pipe = VideoInfinityPipeline.from_pretrained(jobs[0].model)
    for job in jobs:
        make(pipe, job, Path(told["folder"]), is_first=job is jobs[0])


if __name__ == "__main__":
    main()
