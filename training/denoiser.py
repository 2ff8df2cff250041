"""Train the embedded model's denoiser together with its text encoder.

`python -m training.denoiser` runs five stages and continues where an interrupted run stopped:
single frames with the temporal layers bypassed, then clips at high noise, where motion is settled,
then clips at all noise levels mixed with single frames, then the same with clips of which the
beginning is known, then with clips of several lengths. `--begin-with MODEL` runs the last stage
alone, on an exported model.

Shapes: B samples, C = 8 channels, F frames, h = w = 8, P prompts, T tokens, D text channels.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextModel

from training import checkpoint, data, world
from training.directions import imprint_directions
from training.known import draw_known, frame_timesteps
from training.latents import LatentPool
from training.positions import PositionHeads
from training.sampling import build_scheduler
from training.schedule import follow, rate_at
from training.text import build_text_encoder, build_tokenizer, tokens_of
from training.unet import build_unet, temporal_layers_bypassed


@dataclass(frozen=True)
class Stage:
    """One stage of training; its learning rate rises, holds, and falls to `final_rate`."""

    name: str
    seed: int
    steps: int
    num_frames: int  # single frames in a batch
    num_clips: int  # 16-frame clips in a batch; of longer ones as many as have no more frames
    learning_rate: float
    final_rate: float
    average_decay: float
    noisy_share: float = 0.0  # of the clips have timesteps from NOISY on
    known_share: float = 0.0  # of the clips have a beginning that is known
    lengths: tuple[int, ...] = (world.NUM_FRAMES,)  # of the clips; each step takes the next


FRAMES = Stage("frames", 1, 1000, 160, 0, 2e-3, 1.2e-3, 0.998)
MOTION = Stage("motion", 3, 400, 0, 8, 1.2e-3, 8e-4, 0.996, noisy_share=1.0)
CLIPS = Stage("clips", 2, 2000, 24, 8, 1.2e-3, 2e-5, 0.996, noisy_share=0.5)
KNOWN = Stage("known", 4, 800, 24, 8, 6e-4, 1e-5, 0.996, noisy_share=0.35, known_share=0.4)
LENGTHS = replace(
    KNOWN, name="lengths", seed=5, steps=2800, num_clips=12, lengths=(16, 32, world.LONGEST)
)
STAGES = (FRAMES, MOTION, CLIPS, KNOWN, LENGTHS)
NOISY = 800  # motion is settled at the timesteps from here on
POSITION_WEIGHT = 0.3
EMPTY_SHARE = 0.1  # of the samples see the empty prompt
SPATIAL_SHARE = 0.3  # of the learning rate, once the spatial layers need only be kept
POOL_CAPACITY = 12_000
POOL_FIRST = 1_000
POOL_PER_STEP = 1
STEPS_PER_LOG = 50
STEPS_PER_SAVE = 200


class Denoiser(nn.Module):
    """UNet and text encoder, as they are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = build_unet()
        # On a CPU plain products are faster, forward and back, than the fused kernel.
        self.unet.set_attn_processor(AttnProcessor())
        tokenizer = build_tokenizer()
        self.text_encoder = build_text_encoder(tokenizer)
        prompts = [scene.prompt() for scene in data.SCENES]
        self.tokens_PT = tokens_of(tokenizer, [*prompts, ""])

    def loss(
        self,
        scheduler: DDIMScheduler,
        generator: torch.Generator,
        latents_BCFhw: Tensor,
        scene_B: Tensor,
        noisy_share: float = 0.0,
        known_BF: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the predicted velocity at random noise levels.

        noisy_share   of the samples have timesteps from NOISY on; all others any
        known_BF      frames that the denoiser gets clean, at timestep 0, and is not asked for
        """
        count = len(scene_B)
        is_empty_B = torch.rand(count, generator=generator) < EMPTY_SHARE
        prompt_B = torch.where(is_empty_B, len(data.SCENES), scene_B)
        lowest_B = torch.where(torch.rand(count, generator=generator) < noisy_share, NOISY, 0)
        timestep_B = (lowest_B + torch.rand(count, generator=generator) * (1000 - lowest_B)).long()
        timestep_B.clamp_(max=999)
        noise = torch.randn(latents_BCFhw.shape, generator=generator)
        noisy = scheduler.add_noise(latents_BCFhw, noise, timestep_B)
        target = scheduler.get_velocity(latents_BCFhw, noise, timestep_B)
        frame_times: AbstractContextManager[None] = nullcontext()
        asked = torch.ones_like(target)
        if known_BF is not None:
            is_known = known_BF[:, None, :, None, None]
            noisy = torch.where(is_known, latents_BCFhw, noisy)
            asked *= ~is_known
            timestep_BF = timestep_B[:, None] * ~known_BF
            frame_times = frame_timesteps(self.unet, timestep_BF.flatten())
        with torch.autocast("cpu", torch.bfloat16), frame_times:
            text_BTD = self.text_encoder(self.tokens_PT[prompt_B]).last_hidden_state
            velocity = self.unet(noisy, timestep_B, text_BTD).sample
        error: Tensor = ((velocity.float() - target).square() * asked).sum() / asked.sum()
        return error


def build_optimizer(model: Denoiser, positions: PositionHeads) -> torch.optim.AdamW:
    """Two groups: spatial layers, and what learns motion (temporal layers, text, its reading)."""
    groups: dict[str, list[nn.Parameter]] = {"spatial": [], "motion": []}
    for name, parameter in model.named_parameters():
        moves = any(part in name for part in ("temp_", "transformer_in", "text_encoder", "attn2"))
        groups["motion" if moves else "spatial"].append(parameter)
    groups["motion"] += positions.parameters()
    named = [{"name": name, "params": parameters} for name, parameters in groups.items()]
    return torch.optim.AdamW(named, betas=(0.9, 0.99), fused=True)


class Trainer:
    """Holds what a checkpoint holds: weights, their average, optimizer, counters."""

    def __init__(self, out: Path) -> None:
        torch.manual_seed(0)
        self.out = out
        self.model = Denoiser()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.positions = PositionHeads(self.model.unet)
        self.optimizer = build_optimizer(self.model, self.positions)
        self.scheduler = build_scheduler()
        self.done = dict.fromkeys((stage.name for stage in STAGES), 0)
        self.seconds = dict.fromkeys((stage.name for stage in STAGES), 0.0)
        if state := checkpoint.load(out / "denoiser.pt"):
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.positions.load_state_dict(state["positions"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.done |= state["done"]
            self.seconds |= state["seconds"]

    def begin_with(self, model: Path) -> None:
        """Take the weights of an exported model, with which all stages but the last are done."""
        unet = UNet3DConditionModel.from_pretrained(model / "unet")
        text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder")
        for part in (self.model, self.average):
            part.unet.load_state_dict(unet.state_dict())
            part.text_encoder.load_state_dict(text_encoder.state_dict())
        self.done |= {stage.name: stage.steps for stage in STAGES[:-1]}

    def save(self) -> None:
        """Write a checkpoint."""
        state = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        state |= {"positions": self.positions.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict()}
        state |= {"done": self.done, "seconds": self.seconds}
        checkpoint.save(self.out / "denoiser.pt", state)

    def begin_clips(self) -> None:
        """Between the stages: go on from the average, with directions that can be told apart."""
        if self.done["motion"] or self.done["clips"]:
            return
        self.model.load_state_dict(self.average.state_dict())
        imprint_directions(self.model.text_encoder, self.model.tokens_PT)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = build_optimizer(self.model, self.positions)

    def step(self, stage: Stage, pool: LatentPool) -> dict[str, float]:
        """One optimizer step; returns the losses."""
        step = self.done[stage.name]
        generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + step)
        clip_frames = world.NUM_FRAMES * stage.num_clips
        samples = stage.num_frames + clip_frames
        losses = {}
        self.optimizer.zero_grad()
        if stage.num_frames:
            latents, scene_B = pool.draw_frames(generator, stage.num_frames)
            with temporal_layers_bypassed(self.model.unet):
                loss = self.model.loss(self.scheduler, generator, latents, scene_B)
                (loss * stage.num_frames / samples).backward()
            losses["frames"] = loss.item()
        if stage.num_clips:
            length = stage.lengths[step % len(stage.lengths)]
            num_clips, known_BF = clip_frames // length, None
            if stage.known_share:
                known_BF = draw_known(generator, num_clips, length, stage.known_share)
            latents, scene_B = pool.draw_clips(
                generator, num_clips, length, None if known_BF is None else known_BF[:, 0]
            )
            loss = self.model.loss(
                self.scheduler, generator, latents, scene_B, stage.noisy_share, known_BF
            )
            position_loss = self.positions.loss(length)
            whole = loss + POSITION_WEIGHT * position_loss
            (whole * clip_frames / samples).backward()
            losses["clips"] = loss.item()
            losses["position"] = position_loss.item()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(stage, step)
            if stage.num_clips and group["name"] == "spatial":
                group["lr"] *= SPATIAL_SHARE
        self.optimizer.step()
        follow(self.average, self.model, stage, step)
        self.done[stage.name] += 1
        return losses

    def run(self, stage: Stage, pool: LatentPool) -> None:
        """Train a stage to its end, with a log row and a checkpoint now and then."""
        recent: dict[str, list[float]] = {}
        started = time.monotonic() - self.seconds[stage.name]
        while (step := self.done[stage.name]) < stage.steps:
            pool.add(POOL_PER_STEP)
            for name, loss in self.step(stage, pool).items():
                recent.setdefault(name, []).append(loss)
            self.seconds[stage.name] = time.monotonic() - started
            if (step + 1) % STEPS_PER_LOG == 0:
                means = {f"loss_{name}": sum(v) / len(v) for name, v in recent.items()}
                checkpoint.log_row(
                    self.out / f"denoiser-{stage.name}.csv",
                    step=step + 1,
                    seconds=self.seconds[stage.name],
                    rate=rate_at(stage, step),
                    **means,
                )
                recent.clear()
            if (step + 1) % STEPS_PER_SAVE == 0 or step + 1 == stage.steps:
                self.save()


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    parser.add_argument("--frame-steps", type=int, default=FRAMES.steps)
    parser.add_argument("--motion-steps", type=int, default=MOTION.steps)
    parser.add_argument("--clip-steps", type=int, default=CLIPS.steps)
    parser.add_argument("--known-steps", type=int, default=KNOWN.steps)
    parser.add_argument("--length-steps", type=int, default=LENGTHS.steps)
    parser.add_argument("--begin-with", type=Path, help="an exported model, for the last stage")
    arguments = parser.parse_args()
    trainer = Trainer(arguments.out)
    if arguments.begin_with and not sum(trainer.done.values()):
        trainer.begin_with(arguments.begin_with)
        shutil.copytree(arguments.begin_with / "vae", arguments.out / "vae", dirs_exist_ok=True)
    vae = AutoencoderKL.from_pretrained(arguments.out / "vae").eval()
    first_seed = 1 + sum(trainer.done.values())  # a continued run draws new clips
    pool = LatentPool(vae, data.exemplar_glyphs(), POOL_CAPACITY, first_seed)
    pool.add(POOL_FIRST)
    trainer.run(replace(FRAMES, steps=arguments.frame_steps), pool)
    trainer.begin_clips()
    trainer.run(replace(MOTION, steps=arguments.motion_steps), pool)
    trainer.run(replace(CLIPS, steps=arguments.clip_steps), pool)
    trainer.run(replace(KNOWN, steps=arguments.known_steps), pool)
    trainer.run(replace(LENGTHS, steps=arguments.length_steps), pool)


if __name__ == "__main__":
    main()
