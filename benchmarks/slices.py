"""How much of a layer should go at a time on a CPU? Time of one denoising step by size of slice.

One rank of one thread with the embedded model; the settings take turns in one process:

    python -m benchmarks.slices --num-frames 128 512 --repeats 4

A setting is megabytes of a slice of tokens or frames, and of a slice of sequences over time;
"none" is a slice for everything. Writes JSON and prints medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from video_infinity.adapters import load_model
from video_infinity.comm import SingleCommunicator
from video_infinity.config import ModelSpec, Request
from video_infinity.context.layers import ClipContext
from video_infinity.context.workspace import Workspace
from video_infinity.engine import ClipRun
from video_infinity.methods.clip_parallel import denoise_with
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent
from video_infinity.timeline import PromptTimeline

MB, ALL = 1 << 20, 1 << 50
SETTINGS = {
    "none": Workspace(ALL, ALL),
    "frames 2": Workspace(2 * MB, ALL),
    "sequences 8": Workspace(ALL, 8 * MB),
    "0.5, 4": Workspace(MB // 2, 4 * MB),
    "1, 4": Workspace(MB, 4 * MB),
    "2, 8": Workspace(2 * MB, 8 * MB),
    "4, 16": Workspace(4 * MB, 16 * MB),
}


def measure(adapter: Any, num_frames: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of a frame and step, for every setting."""
    timeline = PromptTimeline.single("a red seven moving left on a navy background")
    options = {"num_frames": num_frames, "num_inference_steps": 1, "front_frames": 0}
    request = prepare(Request.from_options(timeline, options), adapter.facts, 1)
    run = ClipRun(
        request, adapter, SingleCommunicator(), make_plan(request, adapter.facts, 1), silent
    )
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for repeat in range(repeats + 1):  # the first one warms up
        for name, workspace in SETTINGS.items():
            job = run.job()
            context = ClipContext(job.comm, job.plan, job.texts[0], job.schedule, workspace)
            begin = time.perf_counter()
            for _ in denoise_with(job, context):
                pass
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(times) / num_frames for name, times in seconds.items()}


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("out/bench/slices.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adapter = load_model(ModelSpec(device="cpu"))
    rows = []
    for num_frames in arguments.num_frames:
        medians = measure(adapter, num_frames, arguments.repeats)
        rows.append({"num_frames": num_frames, "ms_per_frame_and_step": medians})
        figures = "  ".join(f"{name}: {value:.2f}" for name, value in medians.items())
        print(f"{num_frames:6} frames, ms a frame and step  {figures}", flush=True)
    result = {"command": sys.argv[1:], "machine": describe(), "rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
