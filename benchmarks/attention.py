"""What does attention over time cost as a video grows: dual scope, masked dense, full?

One layer alone, of the embedded model's finest level (64 sequences, 8 heads of 8 channels), one
thread, interleaved repeats:

    python -m benchmarks.attention --num-frames 64 128 256 512 1024 2304

Masked dense computes the same as dual scope, through one [L, L] mask; full attends to every frame.
Writes JSON and prints a table of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from video_infinity.context.attention import (
    ScopeBias,
    dual_scope_attention,
    lay_out,
    scope_bias,
)
from video_infinity.plan import Plan, Scopes, split_timeline

SEQUENCES, HEADS, CHANNELS = 64, 8, 8
LOCAL_FRAMES, GLOBAL_FRAMES = 8, 16


def ways(length: int) -> dict[str, Callable[[], torch.Tensor]]:
    """The three, on the same queries, keys and values [N, L, H, D]."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(SEQUENCES, length, HEADS, CHANNELS, generator=generator) for _ in range(3)
    )
    plan = Plan(split_timeline(length, 1), Scopes(LOCAL_FRAMES, GLOBAL_FRAMES))
    scopes = (plan.local_frames, plan.global_context, ScopeBias())
    blocks = lay_out(range(length), range(length), *scopes, like=q)
    mask_LL = torch.from_numpy(scope_bias(range(length), range(length), *scopes))

    def dense(mask: torch.Tensor | None) -> torch.Tensor:
        parts = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2)

    return {
        "dual scope": lambda: dual_scope_attention(q, k, v, blocks),
        "masked dense": lambda: dense(mask_LL),
        "full": lambda: dense(None),
    }


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument(
        "--num-frames", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2304]
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("out/bench/attention.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for length in arguments.num_frames:
        seconds: dict[str, list[float]] = {}
        with torch.inference_mode():
            runs = ways(length)
            difference = (runs["dual scope"]() - runs["masked dense"]()).abs().max()
            assert float(difference) < 1e-5, "the two compute the same"
            for _ in range(arguments.repeats):
                for name, run in runs.items():
                    begin = time.perf_counter()
                    run()
                    seconds.setdefault(name, []).append(time.perf_counter() - begin)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        rows.append({"num_frames": length, "seconds": medians})
        figures = "  ".join(f"{name} {1e3 * value:9.2f} ms" for name, value in medians.items())
        ratios = "  ".join(
            f"{name} / dual {medians[name] / medians['dual scope']:6.2f}"
            for name in ("masked dense", "full")
        )
        print(f"{length:6} frames  {figures}  {ratios}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"command": sys.argv[1:], "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
