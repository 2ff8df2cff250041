"""Which local scope, global context and bias suit a long video of the embedded model?

Generates the same prompts and seeds with every setting, through the public API, and reads the
frames with the judge of `training`, which knows real renderings only. Consistency never stands
without motion beside it: a frozen video is perfectly consistent.

    python -m benchmarks.scopes --settings 16:0 8:8 4:8 --num-frames 96 --prompts 6

A setting is H:G or H:G:LOCAL_BIAS:GLOBAL_BIAS. Writes JSON and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training import data, world
from training.evaluate import balanced_scenes
from training.judge import Judge, read
from video_infinity import VideoInfinityPipeline

JUMP_PIXELS = 8.0
"""The world moves by 2 to 3 pixels a frame; a larger step than this is a jump."""
STILL_PIXELS = 0.5


def score(frames_FHWC: np.ndarray[Any, Any], scene: world.Scene, judge: Judge) -> dict[str, float]:
    """Shares of frames in which a long video is what its prompt says, and how it moves."""
    frames_F3HW = torch.from_numpy(frames_FHWC).permute(0, 3, 1, 2).float() / 255
    reading = read(frames_F3HW)
    digit_F = judge.digits(reading.patch)
    step_F = reading.centre.diff(dim=0).norm(dim=1)
    right = {
        "digit": digit_F == world.DIGITS.index(scene.digit),
        "colour": reading.colour == list(world.COLOURS).index(scene.colour),
        "background": reading.background == list(world.BACKGROUNDS).index(scene.background),
        "same digit": digit_F == digit_F.mode().values,
        "jumps": step_F > JUMP_PIXELS,
        "still": step_F < STILL_PIXELS,
    }
    shares = {name: float(hits.float().mean()) for name, hits in right.items()}
    return shares | {"median pixels a frame": float(step_F.median())}


def parse_setting(text: str) -> dict[str, float]:
    """H:G or H:G:LOCAL_BIAS:GLOBAL_BIAS as keywords of the pipeline."""
    local, count, *bias = text.split(":")
    local_bias, global_bias = (float(b) for b in bias or (0, 0))
    return {
        "local_frames": int(local),
        "global_frames": int(count),
        "local_bias": local_bias,
        "global_bias": global_bias,
    }


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--settings", nargs="+", required=True)
    parser.add_argument("--num-frames", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--judge", type=Path, default=Path("out/training/judge.pt"))
    parser.add_argument("--out", type=Path, default=Path("out/scopes.json"))
    arguments = parser.parse_args()
    arguments.judge.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    judge, pipe = Judge(arguments.judge), VideoInfinityPipeline.from_pretrained("demo")
    scenes = [data.SCENES[i] for i in balanced_scenes(arguments.prompts)]
    results: dict[str, dict[str, float]] = {}
    for text in arguments.settings:
        rows = []
        for seed, scene in enumerate(scenes):
            options = parse_setting(text)
            if arguments.steps:
                options["num_inference_steps"] = arguments.steps
            with pipe(
                scene.prompt(), num_frames=arguments.num_frames, seed=seed, **options
            ) as video:
                rows.append(score(np.stack(list(video)), scene, judge))
        results[text] = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
        figures = "  ".join(f"{name} {value:.3f}" for name, value in results[text].items())
        print(f"{text:>14}  {figures}", flush=True)
    arguments.out.write_text(json.dumps(vars(arguments) | {"results": results}, default=str))


if __name__ == "__main__":
    main()
