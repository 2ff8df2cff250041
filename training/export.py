"""Write the trained parts as one diffusers pipeline directory.

`python -m training.export --to DIR` replaces DIR by a whole new directory, or leaves it alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, TextToVideoSDPipeline

from training import checkpoint, world
from training.denoiser import Denoiser
from training.sampling import build_scheduler
from training.text import build_tokenizer

NUM_INFERENCE_STEPS = 10
GUIDANCE_SCALE = 3.0
ETA = 1.0
"""Of DDIM; what was measured is in docs/lab-notes.md."""
SCOPES = {  # of long videos; what was measured is in docs/lab-notes.md
    "local_frames": 8,
    "global_frames": 16,
    "local_bias": 0.0,
    "global_bias": 0.0,
    "bias_switch": 800.0,
    "front_frames": 2,
    "front_span": 4096,
}
DEFAULTS = {
    "vocabulary": list(world.VOCABULARY),
    "height": world.SIZE,
    "width": world.SIZE,
    "fixed_size": True,
    "fps": world.FPS,
    "num_inference_steps": NUM_INFERENCE_STEPS,
    "guidance_scale": GUIDANCE_SCALE,
    "eta": ETA,
    "trained_frames": world.NUM_FRAMES,
    "knows_frames": True,
    **SCOPES,
}


def build_pipeline(out: Path) -> TextToVideoSDPipeline:
    """The pipeline of the averaged weights that lie under the training's output directory.

    Raises FileNotFoundError if the denoiser has no checkpoint yet.
    """
    state = checkpoint.load(out / "denoiser.pt")
    if state is None:
        raise FileNotFoundError(f"no denoiser.pt in {out}; run python -m training.denoiser")
    trained = Denoiser()
    trained.load_state_dict(state["average"])
    return TextToVideoSDPipeline(
        vae=AutoencoderKL.from_pretrained(out / "vae").eval(),
        text_encoder=trained.text_encoder.eval(),
        tokenizer=build_tokenizer(),
        unet=trained.unet.eval(),
        scheduler=build_scheduler(),
    )


def export(out: Path, target: Path) -> None:
    """UNet and autoencoder are stored in half precision, which from_pretrained widens again."""
    pipeline = build_pipeline(out)
    pipeline.unet.half()
    pipeline.vae.half()
    publish(pipeline, DEFAULTS, Path(__file__).with_name("card.md"), target)


def publish(
    pipeline: DiffusionPipeline, defaults: dict[str, Any], card: Path, target: Path
) -> None:
    """Write a pipeline beside `target`, with our facts of it and its card, then swap.

    The model card is without its table until the evaluation writes it.
    """
    fresh = target.with_name(target.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh)
    config_file = fresh / "vae" / "config.json"
    config = json.loads(config_file.read_text())
    config.pop("_name_or_path", None)  # a path of this machine
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    (fresh / "video_infinity.json").write_text(json.dumps(defaults, indent=2) + "\n")
    (fresh / "README.md").write_text(card.read_text().replace("{evaluation}", "Not evaluated yet."))
    former = target.with_name(target.name + ".former")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.rename(former)
    fresh.rename(target)
    shutil.rmtree(former, ignore_errors=True)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    parser.add_argument("--to", type=Path, default=Path("src/video_infinity/demo/model"))
    arguments = parser.parse_args()
    with torch.no_grad():
        export(arguments.out, arguments.to)


if __name__ == "__main__":
    main()
