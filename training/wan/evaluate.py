"""Measure the second embedded model on generated clips, and real clips beside it.

`python -m training.wan.evaluate` prints a table in Markdown.

Shapes: N clips, P pixel frames, H = W = 64.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor

from training import data
from training.evaluate import balanced_scenes, report, sheet, write_card
from training.judge import Judge
from training.wan.autoencoder import FRAMES_PER_LATENT


def generate(
    pipeline: WanPipeline,
    scenes: list[int],
    num_frames: int,
    num_inference_steps: int,
    guidance_scale: float,
    seed: int,
    batch_size: int = 10,
) -> Tensor:
    """Clips [N, P, 3, H, W] in [0, 1] by diffusers' own pipeline, one per scene."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [data.SCENES[i].prompt() for i in scenes]
    batches = []
    for start in range(0, len(scenes), batch_size):
        part = prompts[start : start + batch_size]
        made = pipeline(
            prompt=part,
            negative_prompt=[""] * len(part),
            height=64,
            width=64,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type="pt",
        )
        batches.append(made.frames.float())
    return torch.cat(batches)


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("src/video_infinity/demo/wan"))
    parser.add_argument("--out", type=Path, default=Path("out/training-wan"))
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--card", action="store_true", help="write the model card")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance-scale", type=float, help="default: the model's own")
    arguments = parser.parse_args()
    defaults = json.loads((arguments.model / "video_infinity.json").read_text())
    steps = arguments.steps or defaults["num_inference_steps"]
    guidance_scale = arguments.guidance_scale or defaults["guidance_scale"]
    num_frames = (defaults["trained_frames"] - 1) * FRAMES_PER_LATENT + 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipeline = WanPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    scenes = balanced_scenes(arguments.clips)
    clips_NP3HW = generate(pipeline, scenes, num_frames, steps, guidance_scale, arguments.seed)
    sheet(clips_NP3HW[:10, ::3], arguments.out / "evaluation.png")
    settings = f"{steps} steps, guidance {guidance_scale:g}, float32"
    judge = Judge(arguments.out / "judge.pt")
    text = report(clips_NP3HW, scenes, judge, arguments.seed, settings)
    print(text)
    if arguments.card:
        write_card(Path(__file__).with_name("card.md"), arguments.model, text)


if __name__ == "__main__":
    main()
