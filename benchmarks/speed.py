"""What does the exchange cost, and are two ranks twice as fast as one? The paper's table, here.

Two gloo processes of one thread each load the embedded model once and go through all variants in
turn, several times over: interleaved, each time in another order, so that no variant always comes
after the one in which a core has rested, and whatever else the machine does falls on all alike.

    one rank      the whole video on rank 0, while rank 1 sleeps
    independent   two clips without any exchange: the limit
    full          clip parallelism, as `generate` does it
    conv, norm, attention   independent clips with this one part of the exchange

    python -m benchmarks.speed --num-frames 256 --steps 2 --repeats 5

What a rank received in a step of the full exchange stands beside the formula's minimum. A
variant's seconds per step are the median over the repeats, of the slower rank; a ratio is the
median of the ratios within each repeat, with the quartiles beside it, and that of the fastest
repeats of both, which other work on the machine has disturbed least. `--variants` leaves some out,
for more repeats of the others. Writes JSON and prints a table.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.world import run_world
from video_infinity.adapters import inspect_model, load_model
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.comm.base import Tally
from video_infinity.comm.process import joined_world
from video_infinity.config import ModelSpec, Request
from video_infinity.context.ablation import Ablation
from video_infinity.engine import ClipRun
from video_infinity.estimate import estimate
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.clip_parallel import denoise_with
from video_infinity.methods.loop import context_of
from video_infinity.plan import Clip, Plan
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent
from video_infinity.timeline import PromptTimeline

PARTS = ("conv", "norm", "attention")
VARIANTS = ("one rank", "independent", *PARTS, "full")
RANKS = 2


def steps_of(variant: str, job: DenoiseJob) -> Any:
    """The denoise of one variant."""
    if variant == "independent":
        clip = Plan((Clip(0, len(job.clip)),), job.plan.scopes)
        job = replace(job, comm=SingleCommunicator(), plan=clip)
    layers = None
    if variant in PARTS:
        clips = [clip.frames for clip in job.plan.clips]
        layers = Ablation.of(set(PARTS) - {variant}, clips, job.clip).layers()
    return denoise_with(job, context_of(job), layers)


def measure(
    comm: Communicator, num_frames: int, steps: int, repeats: int, variants: Sequence[str]
) -> dict[str, Any]:
    """Seconds per step of every variant and repeat, and what was exchanged, on this rank.

    Of the exchange, the last repeat's; a rank without one waits for nothing.
    """
    adapter = load_model(ModelSpec(device="cpu"))
    options = {"num_frames": num_frames, "num_inference_steps": steps, "front_frames": 0}
    timeline = PromptTimeline.single("a red seven moving left on a navy background")
    request = Request.from_options(timeline, {**options, "device": "cpu"})
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    exchanged: dict[str, Tally] = {}
    for repeat in range(repeats + 1):  # the first one warms up
        for variant in random.Random(repeat).sample(variants, len(variants)):
            world = SingleCommunicator() if variant == "one rank" else comm
            prepared = prepare(request, adapter.facts, world.size)
            run = ClipRun(
                prepared, adapter, world, make_plan(prepared, adapter.facts, world.size), silent
            )
            comm.barrier()
            if variant == "one rank" and comm.rank:
                comm.barrier()
                continue
            job = run.job()
            if variant != "one rank":
                comm.barrier()
            before, begin = replace(comm.tally), time.perf_counter()
            for _ in steps_of(variant, job):
                pass
            if repeat:
                seconds[variant].append((time.perf_counter() - begin) / steps)
                if variant != "one rank":
                    exchanged[variant] = comm.tally.since(before)
            if variant == "one rank":
                comm.barrier()
    per_step = {
        variant: {name: value / steps for name, value in asdict(tally).items()}
        for variant, tally in exchanged.items()
    }
    least = least_bytes(request, comm)
    return {"seconds": seconds, "per_step": per_step, "least_bytes": least}


def least_bytes(request: Request, comm: Communicator) -> int:
    """What this rank must receive in a step, by the formula."""
    facts = inspect_model(request.model)
    predicted = estimate(prepare(request, facts, comm.size), facts, comm.size)
    return int(predicted["bytes_received_per_step"][comm.rank])


def slower(ranks: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Per variant, the slower rank's seconds per step in each repeat."""
    times = {}
    for variant in ranks[0]["seconds"]:
        runs = [rank["seconds"][variant] for rank in ranks if rank["seconds"][variant]]
        times[variant] = [max(of_repeat) for of_repeat in zip(*runs, strict=True)]
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> dict[str, float]:
    """Of two variants within a repeat, median and quartiles; and of the fastest repeats of each."""
    ratios = sorted(a / b for a, b in zip(times[over], times[under], strict=True))
    low, middle, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    )
    fastest = min(times[over]) / min(times[under])
    return {"median": middle, "low": low, "high": high, "fastest": fastest}


def in_words(found: dict[str, float], form: str = "+.1%", less: float = 1.0) -> str:
    """A ratio with its quartiles; by default what it is above 1."""
    names = ("median", "low", "high", "fastest")
    median, low, high, fastest = (format(found[name] - less, form) for name in names)
    return f"{median} ({low} to {high}; fastest {fastest})"


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--num-frames", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--out", type=Path, default=Path("out/bench/speed.json"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    numbers = (arguments.num_frames, arguments.steps, arguments.repeats)
    if arguments.worker:
        torch.set_num_threads(1)
        with joined_world(torch.device("cpu"), timeout_s=1800) as comm:
            print(json.dumps(measure(comm, *numbers, arguments.variants)))
        return
    if not {"one rank", "independent", "full"}.issubset(arguments.variants):
        parser.error("one rank, independent and full are what all ratios are of")
    names = ("--num-frames", "--steps", "--repeats")
    words = [str(word) for pair in zip(names, numbers, strict=True) for word in pair]
    words += ["--variants", *arguments.variants]
    ranks = run_world("benchmarks.speed", words, RANKS)
    times = slower(ranks)
    medians = {variant: statistics.median(of_variant) for variant, of_variant in times.items()}
    costs = {name: ratio(times, name, "independent") for name in times if name != "one rank"}
    speed_up = ratio(times, "one rank", "full")
    limit = ratio(times, "one rank", "independent")
    of_limit = ratio(times, "independent", "full")
    for variant, seconds in medians.items():
        cost = in_words(costs[variant]) if variant in costs else ""
        print(f"{variant:12} {seconds:8.3f} s a step  {cost}")
    print(f"speed-up of two ranks over one: {in_words(speed_up, '.2f', 0)}")
    print(f"the same without exchange:      {in_words(limit, '.2f', 0)}")
    print(f"the one over the other:         {in_words(of_limit, '.3f', 0)}")
    over = max(rank["per_step"]["full"]["bytes_received"] / rank["least_bytes"] for rank in ranks)
    print(f"bytes received over the least:  {over:.4f}")
    for rank, found in enumerate(ranks):
        for variant, tally in found["per_step"].items():
            print(
                f"rank {rank}, {variant:12} {tally['posts']:3.0f} rounds of frames, "
                f"{tally['gathers']:3.0f} of moments, waited {tally['seconds_waited']:.3f} s"
            )
    result = {
        "command": sys.argv[1:],
        "machine": describe(),
        "medians": medians,
        "over_independent": costs,
        "speed_up": speed_up,
        "speed_up_independent": limit,
        "speed_up_of_independent": of_limit,
        "bytes_over_least": over,
        "ranks": ranks,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
