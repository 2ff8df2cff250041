"""Measure the embedded model on generated clips, and the same measures on real clips beside it.

`python -m training.evaluate` prints a table in Markdown.

Shapes: N clips, F frames, C latent channels, h = w = 8, H = W = 64.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import TextToVideoSDPipeline
from PIL import Image
from torch import Tensor

from training import data, world
from training.judge import Judge, read
from training.latents import decode
from training.sampling import sample
from training.text import tokens_of

FIRST_STEPS = 3  # the first direction is read over so many frames
MIN_MOVE = 2.0  # pixels over FIRST_STEPS; less is no motion
BARS = {
    "digit right in most frames of the clip": 0.85,
    "same digit in all frames of the clip": 0.85,
    "colour right (frames)": 0.95,
    "background right (frames)": 0.95,
    "first direction right": 0.85,
}


def balanced_scenes(count: int) -> list[int]:
    """Indices into data.SCENES in which every word of a kind is as frequent as the others.

    The words of the four kinds go round at their own pace; shuffled directions and backgrounds
    would only be balanced on average.
    """
    scenes = []
    for i in range(count):
        digit, rest = i % 10, i // 10
        words = (digit, (rest + digit) % 6, (rest + i) % 4, (rest // 4 + i) % 5)
        scenes.append(((words[0] * 6 + words[1]) * 4 + words[2]) * 5 + words[3])
    return scenes


def generate(
    pipeline: TextToVideoSDPipeline,
    scenes: list[int],
    num_frames: int,
    num_inference_steps: int,
    guidance_scale: float,
    eta: float,
    seed: int,
    batch_size: int = 10,
) -> Tensor:
    """Generated clips [N, F, 3, H, W] in [0, 1], one per scene; noise from `seed`, clip by clip."""
    generator = torch.Generator().manual_seed(seed)
    config = pipeline.unet.config
    shape = (len(scenes), config.in_channels, num_frames, config.sample_size, config.sample_size)
    noise_NCFhw = torch.randn(shape, generator=generator)
    generators = [
        torch.Generator().manual_seed(seed * 1_000_000 + n + 1) for n in range(len(scenes))
    ]
    prompts = [data.SCENES[i].prompt() for i in scenes]
    batches = []
    with torch.no_grad():
        text = pipeline.text_encoder(tokens_of(pipeline.tokenizer, [*prompts, ""]))[0]
        for start in range(0, len(scenes), batch_size):
            part = slice(start, min(start + batch_size, len(scenes)))
            latents_BCFhw = sample(
                pipeline.unet, pipeline.scheduler, text[part], text[-1:], noise_NCFhw[part],
                num_inference_steps, guidance_scale, eta, generators[part],
            )  # fmt: skip
            frames = decode(pipeline.vae, latents_BCFhw.transpose(1, 2).flatten(0, 1))
            batches.append(frames.unflatten(0, (-1, num_frames)))
    return torch.cat(batches)


def real_clips(scenes: list[int], seed: int, num_frames: int = world.NUM_FRAMES) -> Tensor:
    """Clips of the world [N, F, 3, H, W], of unseen digits, for the same scenes."""
    glyphs = data.split_glyphs(held_out=True)
    generator = torch.Generator().manual_seed(seed)
    clips = data.draw_clips(generator, len(scenes), num_frames, glyphs, torch.tensor(scenes))
    moment_F = torch.arange(num_frames)
    return torch.stack(
        [clips.frames(moment_F, torch.full_like(moment_F, n)) for n in range(len(scenes))]
    )


def measure(clips_NF3HW: Tensor, scenes: list[int], judge: Judge) -> dict[str, float]:
    """Shares of clips (or of frames, where the name says so) that are right."""
    count, num_frames = clips_NF3HW.shape[:2]
    reading = read(clips_NF3HW.flatten(0, 1))
    truth = [data.SCENES[i] for i in scenes]

    def wanted(words: list[str], table: tuple[str, ...]) -> Tensor:
        return torch.tensor([table.index(word) for word in words])[:, None]

    digit_NF = judge.digits(reading.patch).view(count, num_frames)
    digit_right_NF = digit_NF == wanted([s.digit for s in truth], world.DIGITS)
    colour_right_NF = reading.colour.view(count, num_frames) == wanted(
        [s.colour for s in truth], tuple(world.COLOURS)
    )
    background_right_NF = reading.background.view(count, num_frames) == wanted(
        [s.background for s in truth], tuple(world.BACKGROUNDS)
    )
    centre_NF2 = reading.centre.view(count, num_frames, 2)
    direction_N2 = torch.tensor([world.DIRECTIONS[s.direction] for s in truth]).float()
    moved_N2 = centre_NF2[:, FIRST_STEPS] - centre_NF2[:, 0]
    along_N = (moved_N2 * direction_N2).sum(1)
    across_N = (moved_N2 * direction_N2.flip(1)).sum(1).abs()
    step_NF = centre_NF2.diff(dim=1).norm(dim=2)
    majority_N = digit_NF.mode(1).values
    same_NF = digit_NF == majority_N[:, None]
    return {
        "digit right in most frames of the clip": _share(digit_right_NF.float().mean(1) > 0.5),
        "same digit in all frames of the clip": _share(same_NF.all(1)),
        "colour right (frames)": _share(colour_right_NF),
        "background right (frames)": _share(background_right_NF),
        "first direction right": _share((along_N >= MIN_MOVE) & (along_N > across_N)),
        "digit right (frames)": _share(digit_right_NF),
        "same digit in at least 7 of 8 frames": _share(same_NF.float().mean(1) >= 7 / 8),
        "median motion, pixels a frame": float(step_NF.median()),
    }


def _share(right: Tensor) -> float:
    return float(right.float().mean())


def sheet(clips_NF3HW: Tensor, path: Path) -> None:
    """A picture with one clip per row."""
    rows = clips_NF3HW.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((rows * 255).round().byte().numpy()).save(path)


def table(generated: dict[str, float], real: dict[str, float]) -> str:
    """The measures of generated clips beside the bars and those of real clips, in Markdown."""
    lines = [
        "| measure | bar | generated | real clips, unseen digits |",
        "| --- | --- | --- | --- |",
    ]
    for name, value in generated.items():
        bar = f"{BARS[name]:.0%}" if name in BARS else ""
        form = ".2f" if "pixels" in name else ".1%"
        lines.append(f"| {name} | {bar} | {value:{form}} | {real[name]:{form}} |")
    return "\n".join(lines)


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("src/video_infinity/demo/model"))
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--card", action="store_true", help="write the model card")
    parser.add_argument("--bfloat16", action="store_true", help="sample in bfloat16 autocast")
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance-scale", type=float, help="default: the model's own")
    parser.add_argument("--eta", type=float, help="default: the model's own")
    arguments = parser.parse_args()
    defaults = json.loads((arguments.model / "video_infinity.json").read_text())
    steps = arguments.steps or defaults["num_inference_steps"]
    guidance_scale = arguments.guidance_scale or defaults["guidance_scale"]
    eta = defaults["eta"] if arguments.eta is None else arguments.eta
    arguments.out.mkdir(parents=True, exist_ok=True)
    judge = Judge(arguments.out / "judge.pt")
    pipeline = TextToVideoSDPipeline.from_pretrained(arguments.model)
    scenes = balanced_scenes(arguments.clips)
    with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bfloat16):
        clips_NF3HW = generate(
            pipeline, scenes, world.NUM_FRAMES, steps, guidance_scale, eta, arguments.seed
        ).float()
    sheet(clips_NF3HW[:10], arguments.out / "evaluation.png")
    text = report(
        clips_NF3HW,
        scenes,
        judge,
        arguments.seed,
        f"{steps} steps, guidance {guidance_scale:g}, eta {eta:g}, "
        f"{'bfloat16 autocast' if arguments.bfloat16 else 'float32'}",
    )
    print(text)
    if arguments.card:
        write_card(Path(__file__).with_name("card.md"), arguments.model, text)


def report(clips_NF3HW: Tensor, scenes: list[int], judge: Judge, seed: int, settings: str) -> str:
    """What was measured, on what, in Markdown."""
    count, num_frames = clips_NF3HW.shape[:2]
    measured = table(
        measure(clips_NF3HW, scenes, judge),
        measure(real_clips(scenes, seed, num_frames), scenes, judge),
    )
    return (
        f"{count} clips of {num_frames} frames, balanced prompts, seed {seed}, {settings}. "
        f"The judge reads {judge.held_out_accuracy():.1%} of real renderings of held-out digits "
        f"right.\n\n{measured}"
    )


def write_card(template: Path, model: Path, measured: str) -> None:
    """Put the table into a model's card."""
    (model / "README.md").write_text(template.read_text().replace("{evaluation}", measured))


if __name__ == "__main__":
    main()
