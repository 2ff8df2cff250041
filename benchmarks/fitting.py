"""How what a method costs grows with the video, and the longest one that fits. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median

from benchmarks.studies import FRAMES_PER_LATENT, pixel_frames
from benchmarks.times import Times, timed
from video_infinity_evaluation.report import Job, Made

MEMORY_LIMIT = 1 << 30
"""Bytes above the model, a rank: how long a video fits is told for so much."""
PATIENCE = 2400.0
"""Seconds: a video that fits is made where it takes less, by its power."""
PARTS = ("denoise", "decode", "write")


def seconds_of(made: Made) -> float:
    """What making the video took, without loading the model."""
    return sum(made.seconds.get(part, 0.0) for part in PARTS)


def peak_of(made: Made) -> float:
    """Bytes above the model, of the rank that took most."""
    return max(made.peak_memory_bytes)


def by_length(
    times: Times, like: Collection[Job], value_of: Callable[[Made], float]
) -> dict[int, float]:
    """Medians by the number of frames, of what was timed as one of `like` but for its length."""
    kinds = {replace(job, num_frames=0) for job in like}
    found: dict[int, list[float]] = defaultdict(list)
    for job, made in times.items():
        if replace(job, num_frames=0) in kinds:
            found[job.num_frames] += map(value_of, made)
    return {num_frames: median(values) for num_frames, values in sorted(found.items())}


def power(seconds: Mapping[int, float]) -> float | None:
    """Of the length, by the two longest; None of fewer."""
    if len(seconds) < 2:
        return None
    (short, before), (long, after) = sorted(seconds.items())[-2:]
    return math.log(after / before) / math.log(long / short)


def frames_that_fit(peaks: Mapping[int, float]) -> float | None:
    """Frames within MEMORY_LIMIT, by the line through the two longest videos. None of fewer than
    two; infinity where the longer one took no more."""
    if len(peaks) < 2:
        return None
    (short, before), (long, after) = sorted(peaks.items())[-2:]
    slope = (after - before) / (long - short)
    return max(0.0, long + (MEMORY_LIMIT - after) / slope) if slope > 0 else math.inf


def longest_jobs(jobs: Sequence[Job], times: Times) -> list[Job]:
    """Of each method and its options, the first prompt's longest video that should fit: where none
    longer than `jobs` was made, and it takes less than PATIENCE as its time has grown."""
    kinds: dict[Job, list[Job]] = defaultdict(list)
    for job in timed(jobs):
        kinds[replace(job, num_frames=0)].append(job)
    chosen = []
    for kind, like in kinds.items():
        seconds = by_length({job: times[job] for job in like if job in times}, like, seconds_of)
        peaks = by_length(times, like, peak_of)
        fits, grows = frames_that_fit(peaks), power(seconds)
        if fits is None or grows is None or math.isinf(fits):
            continue
        long, took = max(seconds.items())
        num_frames = pixel_frames(kind.model, int(fits) - FRAMES_PER_LATENT[kind.model] + 1)
        if max(peaks) == long < num_frames and took * (num_frames / long) ** grows < PATIENCE:
            chosen.append(replace(kind, num_frames=num_frames))
    return chosen
