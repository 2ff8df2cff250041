"""What does attention over time cost as a video grows: dual scope, masked dense, full?

One layer alone, of the embedded model's finest level (64 sequences, 8 heads of 8 channels), and a
whole pass of its denoiser with one branch; one thread, interleaved repeats:

    python -m benchmarks.attention --num-frames 64 128 256 512 1024 2304

Masked dense computes the same as dual scope, through one [L, L] mask; full attends to every frame.
`--blocks` times the layer alone with other numbers of queries in a block. Writes JSON and prints a
table of medians.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from video_infinity.adapters import load_model
from video_infinity.comm import SingleCommunicator
from video_infinity.config import ModelSpec
from video_infinity.context.attention import (
    Block,
    Layout,
    ScopeBias,
    dual_scope_attention,
    lay_out,
)
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.plan import Plan, Scopes, split_timeline

WAYS = ("dual scope", "masked dense", "full")
SEQUENCES, HEADS, CHANNELS = 64, 8, 8
LOCAL_FRAMES, GLOBAL_FRAMES = 8, 16


def plan_of(length: int) -> Plan:
    return Plan(split_timeline(length, 1), Scopes(LOCAL_FRAMES, GLOBAL_FRAMES))


def layouts(plan: Plan, like: torch.Tensor) -> dict[str, Layout]:
    """Three ways to attend over a whole video on one rank."""
    length, whole = plan.num_latent_frames, range(plan.num_latent_frames)
    dual = lay_out(whole, whole, plan.local_frames, plan.global_context, ScopeBias(), like=like)
    distance_LL = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    may_LL = distance_LL <= plan.local_frames
    may_LL[:, list(plan.global_context)] = True
    mask_LL = torch.zeros(length, length).masked_fill_(~may_LL, -math.inf)

    def in_one_block(mask: torch.Tensor | None) -> Layout:
        return Layout(whole, (Block(0, length, 0, length, mask),), (), None)

    return {
        "dual scope": dual,
        "masked dense": in_one_block(mask_LL if not may_LL.all() else None),
        "full": in_one_block(None),
    }


def layer_alone(length: int) -> dict[str, Callable[[], torch.Tensor]]:
    """The three, on the same queries, keys and values [N, L, H, D]."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(SEQUENCES, length, HEADS, CHANNELS, generator=generator) for _ in range(3)
    )
    return {
        name: partial(dual_scope_attention, q, k, v, layout)
        for name, layout in layouts(plan_of(length), q).items()
    }


def by_block(length: int, blocks: list[int], repeats: int) -> dict[int, float]:
    """Median seconds of the layer alone for each number of queries in a block, interleaved."""
    plan, like = plan_of(length), torch.empty(0)
    whole = range(length)
    cut = {
        block: lay_out(
            *(whole, whole, plan.local_frames, plan.global_context, ScopeBias()),
            like=like,
            block_frames=block,
        )
        for block in blocks
    }
    q, k, v = torch.randn(3, SEQUENCES, length, HEADS, CHANNELS).unbind()
    seconds: dict[int, list[float]] = {block: [] for block in blocks}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for block, layout in cut.items():
                begin = time.perf_counter()
                dual_scope_attention(q, k, v, layout)
                if turn:
                    seconds[block].append(time.perf_counter() - begin)
    return {block: statistics.median(times) for block, times in seconds.items()}


@dataclass
class OneLayout(ClipContext):
    """A context whose attention is done in a given way."""

    way: str = "dual scope"

    def layout(self, like: torch.Tensor) -> Layout:
        return self.once(self.way, lambda: layouts(self.plan, like)[self.way])  # type: ignore[no-any-return]


def whole_step(adapter: Any, length: int) -> dict[str, Callable[[], torch.Tensor]]:
    """One pass of the embedded model's denoiser with one branch, in the three ways."""
    shape_CHW = adapter.facts.latent_shape_CHW(64, 64)
    z_BCFHW = torch.randn(1, shape_CHW[0], length, *shape_CHW[1:])
    text = FrameText(adapter.encode(["a red seven"]), ((0,) * length,))

    def run(context: ClipContext) -> torch.Tensor:
        with installed(adapter.sites(), context):
            return adapter.denoise(z_BCFHW, torch.tensor(500), text)  # type: ignore[no-any-return]

    return {
        way: partial(run, OneLayout(SingleCommunicator(), plan_of(length), text, way=way))
        for way in WAYS
    }


def medians_of(runs: dict[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, float]:
    """Interleaved; the first time of each is a warm-up, and shows that two compute the same."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        dual, dense = (runs[name]() for name in WAYS[:2])
        assert float((dual - dense).abs().max()) < 1e-4 * max(1.0, float(dense.std()))
        for _ in range(repeats):
            for name, run in runs.items():
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--num-frames", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2304]
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--step-repeats", type=int, default=2)
    parser.add_argument("--longest-step", type=int, default=1024, help="frames of a whole step")
    parser.add_argument("--blocks", type=int, nargs="*", default=[8, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=Path("out/bench/attention.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    adapter = load_model(ModelSpec(device="cpu"))
    rows = []
    for length in arguments.num_frames:
        row: dict[str, Any] = {"num_frames": length}
        row["seconds"] = medians_of(layer_alone(length), arguments.repeats)
        row["blocks"] = by_block(length, arguments.blocks, arguments.repeats)
        if length <= arguments.longest_step:
            row["step"] = medians_of(whole_step(adapter, length), arguments.step_repeats)
        rows.append(row)
        figures = "  ".join(f"{n} {1e3 * value:.2f} ms" for n, value in row["blocks"].items())
        print(f"{length:6} frames  queries in a block: {figures}", flush=True)
        for part in ("seconds", "step"):
            medians = row.get(part)
            if medians is None:
                continue
            told = "layer" if part == "seconds" else part
            figures = "  ".join(f"{name} {1e3 * value:9.2f} ms" for name, value in medians.items())
            ratios = "  ".join(
                f"{name} / dual {medians[name] / medians['dual scope']:6.2f}" for name in WAYS[1:]
            )
            print(f"{length:6} frames  {told:5}  {figures}  {ratios}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"command": sys.argv[1:], "machine": describe(), "rows": rows}, indent=2)
    )


if __name__ == "__main__":
    main()
