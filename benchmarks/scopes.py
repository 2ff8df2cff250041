"""Which local scope, global context and bias suit a long video of the embedded model?

Generates the same prompts and seeds with every setting, through the public API, and reads the
frames with the judge of `training`, which knows real renderings only. Consistency never stands
without motion beside it: a frozen video is perfectly consistent. The first row is the world itself,
rendered for the same prompts.

    python -m benchmarks.scopes --settings 16:0 8:8 4:8 --num-frames 96 --prompts 6

A setting is H:G or H:G:LOCAL_BIAS:GLOBAL_BIAS. Prints the means of a setting over its videos, and
writes JSON with one row for each video.
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


def real_video(scene: int, num_frames: int, seed: int) -> np.ndarray[Any, Any]:
    """The world's own frames [F, H, W, 3] for one of data.SCENES, with a digit as in training."""
    generator = torch.Generator().manual_seed(seed)
    scene_N = torch.tensor([scene])
    clips = data.draw_clips(generator, 1, num_frames, data.exemplar_glyphs(), scene_N)
    frames_F3HW = clips.frames(torch.arange(num_frames), torch.zeros(num_frames).long())
    return (frames_F3HW.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def report(setting: str, rows: list[dict[str, float]]) -> None:
    """Print a setting's means over its videos."""
    means = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
    figures = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    print(f"{setting:>14}  {figures}", flush=True)


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
    indices = balanced_scenes(arguments.prompts)
    scenes = [data.SCENES[i] for i in indices]
    real = [real_video(i, arguments.num_frames, seed) for seed, i in enumerate(indices)]
    results = {"real": [score(v, scene, judge) for v, scene in zip(real, scenes, strict=True)]}
    report("real", results["real"])
    for text in arguments.settings:
        rows = results[text] = []
        for seed, scene in enumerate(scenes):
            options = parse_setting(text)
            if arguments.steps:
                options["num_inference_steps"] = arguments.steps
            with pipe(
                scene.prompt(), num_frames=arguments.num_frames, seed=seed, **options
            ) as video:
                rows.append(score(np.stack(list(video)), scene, judge))
        report(text, rows)
    arguments.out.write_text(json.dumps(vars(arguments) | {"results": results}, default=str))


if __name__ == "__main__":
    main()
