"""Write the second model's trained parts as one diffusers pipeline directory.

`python -m training.wan.export --to DIR` replaces DIR by a whole new directory, or leaves it alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from training import checkpoint, world
from training.export import publish
from training.wan.denoiser import FLOW_SHIFT, Denoiser
from training.wan.latents import TRAINED_FRAMES
from training.wan.text import build_tokenizer

DEFAULTS = {
    "vocabulary": list(world.VOCABULARY),
    "num_frames": 129,
    "height": world.SIZE,
    "width": world.SIZE,
    "fixed_size": True,
    "fps": world.FPS,
    "num_inference_steps": 10,
    "guidance_scale": 3.0,
    "trained_frames": TRAINED_FRAMES,
    "knows_frames": True,
    "local_frames": 8,
    "global_frames": 4,
    "front_frames": 1,
    "front_span": 1024,
}


def build_scheduler() -> UniPCMultistepScheduler:
    """The scheduler that Wan's own repositories come with."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
    )


def build_pipeline(out: Path) -> WanPipeline:
    """The pipeline of the averaged weights that lie under the training's output directory.

    Raises FileNotFoundError if the denoiser has no checkpoint yet.
    """
    state = checkpoint.load(out / "denoiser.pt")
    if state is None:
        raise FileNotFoundError(f"no denoiser.pt in {out}; run python -m training.wan.denoiser")
    trained = Denoiser()
    trained.load_state_dict(state["average"])
    for block in trained.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=trained.text_encoder.eval(),
        vae=AutoencoderKLWan.from_pretrained(out / "vae").eval(),
        scheduler=build_scheduler(),
        transformer=trained.transformer.eval(),
    )


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training-wan"))
    parser.add_argument("--to", type=Path, default=Path("src/video_infinity/demo/wan"))
    arguments = parser.parse_args()
    with torch.no_grad():
        pipeline = build_pipeline(arguments.out)
        pipeline.transformer.half()
        pipeline.vae.half()
        publish(pipeline, DEFAULTS, Path(__file__).with_name("card.md"), arguments.to)


if __name__ == "__main__":
    main()
