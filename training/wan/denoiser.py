"""Train the second model's transformer together with its text encoder, by flow matching.

`python -m training.wan.denoiser` continues where an interrupted run stopped. Clips grow with the
stages: beginnings of videos first, then all of the trained length. In a share of the clips the
first frames are known: clean, at timestep 0, and what is learned is how to go on from them.

Shapes: B clips, C = 16 channels, F latent frames, h = w = 8, P prompts, S text tokens, D channels.
Source of the loss: Lipman et al., Flow Matching for Generative Modeling (2023).
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn

from training import checkpoint, data
from training.known import draw_known
from training.schedule import follow, rate_at
from training.wan import text
from training.wan.autoencoder import LATENT_CHANNELS
from training.wan.latents import TRAINED_FRAMES, LatentPool

PADDING = 512
"""Tokens that Wan's transformer reads of a prompt; a short one is followed by zeros."""


@dataclass(frozen=True)
class Stage:
    """One stage of training; its learning rate rises, holds, and falls to `final_rate`."""

    name: str
    seed: int
    steps: int
    num_clips: int
    num_frames: int
    learning_rate: float
    final_rate: float
    average_decay: float
    known_share: float  # of the clips have a beginning that is known


BEGINNINGS = Stage("beginnings", 1, 1200, 32, 4, 2e-3, 1e-3, 0.995, 0.0)
CLIPS = Stage("clips", 2, 1800, 12, TRAINED_FRAMES, 1.5e-3, 2e-5, 0.997, 0.4)
STAGES = (BEGINNINGS, CLIPS)
FLOW_SHIFT = 3.0
"""Of noise levels, in training as in sampling: more of them are high. (Esser et al., 2024)"""
EVEN_SHARE = 0.3  # of the noise levels are drawn evenly
EMPTY_SHARE = 0.1  # of the clips see the empty prompt
POOL_CAPACITY = 6_000
POOL_FIRST = 768
POOL_BATCH = 4
STEPS_PER_ADD = 8
STEPS_PER_LOG = 50
STEPS_PER_SAVE = 100


def build_transformer() -> WanTransformer3DModel:
    """An untrained transformer that predicts nothing yet."""
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=text.HIDDEN_SIZE,
        freq_dim=256,
        ffn_dim=1024,
        num_layers=8,
    )
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


class FewTokens:
    """Attention to a text of which the last token stands for all of the padding up to PADDING.

    As many equal keys add the logarithm of their number to one key's score.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        k = attn.norm_k(attn.to_k(encoder_hidden_states))
        k = k.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        v = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        words = k.shape[2] - 1
        bias_S = q.new_zeros(words + 1)
        bias_S[words] = math.log(PADDING - words)
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + bias_S).softmax(-1)
        out: Tensor = attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2))
        return out


class Denoiser(nn.Module):
    """Transformer and text encoder, as they are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        for block in self.transformer.blocks:
            block.attn2.set_processor(FewTokens())
        tokenizer = text.build_tokenizer()
        self.text_encoder = text.build_text_encoder(tokenizer)
        prompts = [scene.prompt() for scene in data.SCENES]
        self.numbers_PT, self.mask_PT = text.tokens_of(tokenizer, [*prompts, ""])

    def loss(
        self, generator: torch.Generator, x_BCFhw: Tensor, scene_B: Tensor, known_BF: Tensor
    ) -> Tensor:
        """Mean squared error of the predicted velocity, noise less clip, at drawn noise levels.

        known_BF  frames that the transformer gets clean, at timestep 0, and is not asked for
        """
        count, _, _, height, width = x_BCFhw.shape
        is_empty_B = torch.rand(count, generator=generator) < EMPTY_SHARE
        prompt_B = torch.where(is_empty_B, len(data.SCENES), scene_B)
        sigma_BF = noise_levels(generator, count)[:, None] * ~known_BF
        sigma = sigma_BF[:, None, :, None, None]
        noise = torch.randn(x_BCFhw.shape, generator=generator)
        noisy = torch.lerp(x_BCFhw, noise, sigma)
        timestep = sigma_BF[:, 0] * 1000
        if known_BF.any():
            timestep = (sigma_BF * 1000).repeat_interleave(height * width // 4, 1)
        with torch.autocast("cpu", torch.bfloat16):
            states_BSD = text.encode(
                self.text_encoder, self.numbers_PT[prompt_B], self.mask_PT[prompt_B]
            )
            velocity = self.transformer(noisy, timestep, states_BSD).sample
        asked = (~known_BF)[:, None, :, None, None].expand_as(x_BCFhw)
        error = (velocity.float() - (noise - x_BCFhw)).square()
        mean: Tensor = (error * asked).sum() / asked.sum()
        return mean


def noise_levels(generator: torch.Generator, count: int) -> Tensor:
    """sigma_B in (0, 1): a share evenly, the others by a logistic normal, and all of them shifted
    as sampling shifts them."""
    even = torch.rand(count, generator=generator)
    normal = torch.randn(count, generator=generator).sigmoid()
    is_even = torch.rand(count, generator=generator) < EVEN_SHARE
    level = torch.where(is_even, even, normal)
    return FLOW_SHIFT * level / (1 + (FLOW_SHIFT - 1) * level)


def build_optimizers(model: Denoiser) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else.

    Source: Jordan et al., Muon (2024), with steps as large as AdamW's (Liu et al., 2025).
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = name.startswith("transformer.blocks") and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
    ]


class Trainer:
    """Holds what a checkpoint holds: weights, their average, optimizers, counters."""

    def __init__(self, out: Path) -> None:
        torch.manual_seed(0)
        self.out = out
        self.model = Denoiser()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = build_optimizers(self.model)
        self.done = dict.fromkeys((stage.name for stage in STAGES), 0)
        self.seconds = dict.fromkeys((stage.name for stage in STAGES), 0.0)
        if state := checkpoint.load(out / "denoiser.pt"):
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.done, self.seconds = state["done"], state["seconds"]

    def save(self) -> None:
        """Write a checkpoint."""
        state: dict[str, Any] = {"model": self.model.state_dict()}
        state |= {"average": self.average.state_dict()}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        state |= {"done": self.done, "seconds": self.seconds}
        checkpoint.save(self.out / "denoiser.pt", state)

    def step(self, stage: Stage, pool: LatentPool) -> float:
        """One step of the optimizers; returns the loss."""
        step = self.done[stage.name]
        generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + step)
        known_BF = draw_known(generator, stage.num_clips, stage.num_frames, stage.known_share)
        x_BCFhw, scene_B = pool.draw(generator, stage.num_clips, stage.num_frames, known_BF[:, 0])
        loss = self.model.loss(generator, x_BCFhw, scene_B, known_BF)
        self.model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(stage, step)
            optimizer.step()
        follow(self.average, self.model, stage, step)
        self.done[stage.name] += 1
        return loss.item()

    def run(self, stage: Stage, pool: LatentPool) -> None:
        """Train a stage to its end, with a log row and a checkpoint now and then."""
        recent: list[float] = []
        started = time.monotonic() - self.seconds[stage.name]
        while (step := self.done[stage.name]) < stage.steps:
            if step % STEPS_PER_ADD == 0:
                pool.add(POOL_BATCH)
            recent.append(self.step(stage, pool))
            self.seconds[stage.name] = time.monotonic() - started
            if (step + 1) % STEPS_PER_LOG == 0:
                checkpoint.log_row(
                    self.out / f"denoiser-{stage.name}.csv",
                    step=step + 1,
                    seconds=self.seconds[stage.name],
                    rate=rate_at(stage, step),
                    loss=sum(recent) / len(recent),
                )
                recent.clear()
            if (step + 1) % STEPS_PER_SAVE == 0 or step + 1 == stage.steps:
                self.save()


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training-wan"))
    parser.add_argument("--beginning-steps", type=int, default=BEGINNINGS.steps)
    parser.add_argument("--clip-steps", type=int, default=CLIPS.steps)
    arguments = parser.parse_args()
    trainer = Trainer(arguments.out)
    vae = AutoencoderKLWan.from_pretrained(arguments.out / "vae").eval()
    first_seed = 1 + sum(trainer.done.values())  # a continued run draws new clips
    pool = LatentPool(vae, data.exemplar_glyphs(), POOL_CAPACITY, first_seed)
    while len(pool) < POOL_FIRST:
        pool.add(POOL_BATCH)
    trainer.run(replace(BEGINNINGS, steps=arguments.beginning_steps), pool)
    trainer.run(replace(CLIPS, steps=arguments.clip_steps), pool)


if __name__ == "__main__":
    main()
