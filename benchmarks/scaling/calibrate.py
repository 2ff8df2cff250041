"""What does the model need to know of this machine? Two gloo processes of one thread over loopback.

    python -m benchmarks.scaling.calibrate --num-frames 256 --repeats 5

Measures, on both ranks at once, as medians:

    post, gather   seconds of one `Communicator.post` (both ways) and one `Communicator.gather`
    cat            seconds a byte of joining received frames to one's own
    steps          when each rank of `independent` clips comes to each place where clip
                   parallelism would exchange: what waiting for each other would cost follows

Nothing of it is a measurement of clip parallelism itself: `benchmarks.speed` measures that.
Writes JSON. Wants a quiet machine for a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.world import run_world
from video_infinity.adapters import load_model
from video_infinity.comm import Communicator, Message, SingleCommunicator
from video_infinity.comm.process import joined_world
from video_infinity.config import ModelSpec, Request
from video_infinity.context.exchange import FrameExchange
from video_infinity.context.layers import ClipContext
from video_infinity.engine import ClipRun
from video_infinity.methods.clip_parallel import denoise_with
from video_infinity.plan import Clip, Plan
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent
from video_infinity.timeline import PromptTimeline

RANKS = 2
POST_BYTES = [64 * 4**k for k in range(10)]  # 64 B to 16 MiB
GATHER_BYTES = [64 * 4**k for k in range(6)]  # moments are small
CAT_SHAPE, CAT_HALO_FRAMES = (128, 128, 64), 16
"""[sequences, frames, channels] of the embedded model's finest level, both branches."""


@dataclass
class ClockedContext(ClipContext):
    """Notes when each exchange would begin. events: (part, seconds)."""

    events: list[tuple[str, float]] = field(default_factory=list)

    def exchange(
        self, own: tuple[torch.Tensor, ...], dim: int, halo_frames: int | None = None
    ) -> FrameExchange:
        part = "attention" if halo_frames is None else "conv"
        self.events.append((part, time.perf_counter()))
        return super().exchange(own, dim, halo_frames)

    def moments(self, x_NCFHW: torch.Tensor, num_groups: int) -> Any:
        self.events.append(("norm", time.perf_counter()))
        return super().moments(x_NCFHW, num_groups)


def median_seconds(comm: Communicator, call: Callable[[], None], repeats: int) -> float:
    """Of one call, begun by all ranks together."""
    seconds = []
    for repeat in range(repeats + 2):
        comm.barrier()
        begin = time.perf_counter()
        call()
        if repeat >= 2:
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def posts(comm: Communicator, repeats: int) -> list[tuple[int, float]]:
    """Bytes each way and seconds, until both have arrived."""
    other = 1 - comm.rank

    def post(out: torch.Tensor, back: torch.Tensor) -> None:
        comm.post([Message(other, out)], [Message(other, back)]).wait()

    outs = [torch.zeros(size // 4) for size in POST_BYTES]
    return [
        (out.nbytes, median_seconds(comm, partial(post, out, torch.zeros_like(out)), repeats))
        for out in outs
    ]


def gathers(comm: Communicator, repeats: int) -> list[tuple[int, float]]:
    """Bytes received and seconds."""

    def gather(own: torch.Tensor) -> None:
        comm.gather(own)[1].wait()

    owns = [torch.zeros(size // 4) for size in GATHER_BYTES]
    return [(own.nbytes, median_seconds(comm, partial(gather, own), repeats)) for own in owns]


def cat_seconds_per_byte(comm: Communicator, repeats: int) -> float:
    """Of the joined tensor, both ranks at once: they share the memory."""
    sequences, _, channels = CAT_SHAPE
    own = torch.zeros(CAT_SHAPE)
    received = torch.zeros(sequences, CAT_HALO_FRAMES, channels)
    joined_bytes = own.nbytes + received.nbytes
    return median_seconds(comm, lambda: _join(own, received), repeats) / joined_bytes


def _join(own: torch.Tensor, received: torch.Tensor) -> None:
    torch.cat((own, received), 1)


def clocked_steps(comm: Communicator, num_frames: int, repeats: int) -> list[dict[str, Any]]:
    """One step of independent clips at a time: when it came to each exchange, and its end."""
    adapter = load_model(ModelSpec(device="cpu"))
    timeline = PromptTimeline.single("a red seven moving left on a navy background")
    options = {"num_frames": num_frames, "num_inference_steps": 1, "front_frames": 0}
    request = prepare(Request.from_options(timeline, options), adapter.facts, comm.size)
    found = []
    for repeat in range(repeats + 1):
        plan = make_plan(request, adapter.facts, comm.size)
        job = ClipRun(request, adapter, comm, plan, silent).job()
        alone = Plan((Clip(0, len(job.clip)),), job.plan.scopes)
        job = replace(job, comm=SingleCommunicator(), plan=alone)
        context = ClockedContext(job.comm, job.plan, job.texts[0], job.schedule)
        comm.barrier()
        begin = time.perf_counter()
        for _ in denoise_with(job, context):
            pass
        total = time.perf_counter() - begin
        events = [(part, round(moment - begin, 6)) for part, moment in context.events]
        if repeat:
            found.append({"events": events, "seconds": total})
    return found


def measure(comm: Communicator, num_frames: int, repeats: int) -> dict[str, Any]:
    """All of it, on this rank."""
    with torch.inference_mode():
        return {
            "post": posts(comm, 20 * repeats),
            "gather": gathers(comm, 40 * repeats),
            "cat_seconds_per_byte": cat_seconds_per_byte(comm, 10 * repeats),
            "steps": clocked_steps(comm, num_frames, repeats),
        }


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--num-frames", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/bench/calibration.json"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    numbers = (arguments.num_frames, arguments.repeats)
    if arguments.worker:
        torch.set_num_threads(1)
        with joined_world(torch.device("cpu"), timeout_s=600) as comm:
            print(json.dumps(measure(comm, *numbers)))
        return
    words = ["--num-frames", str(numbers[0]), "--repeats", str(numbers[1])]
    ranks = run_world("benchmarks.scaling.calibrate", words, RANKS)
    result = {
        "command": ["python", "-m", "benchmarks.scaling.calibrate", *words],
        "machine": describe(),
        "num_frames": arguments.num_frames,
        "ranks": ranks,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result))
    for rank, found in enumerate(ranks):
        steps = [step["seconds"] for step in found["steps"]]
        print(f"rank {rank}: steps of {', '.join(f'{s:.2f}' for s in steps)} s")
        for name in ("post", "gather"):
            figures = "  ".join(f"{size} B {1e6 * s:.0f} us" for size, s in found[name])
            print(f"  {name}: {figures}")
        print(f"  cat: {1e-9 / found['cat_seconds_per_byte']:.2f} GB/s")


if __name__ == "__main__":
    main()
