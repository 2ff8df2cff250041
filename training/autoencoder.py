"""Train the embedded model's autoencoder: one 64x64 frame to 8 channels of 8x8 and back.

`python -m training.autoencoder` continues where an interrupted run stopped.

Shapes: B frames, C = 8 latent channels, H = W = 64 pixels, h = w = 8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from training import checkpoint, data, world

Conv = nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Settings:
    """What one run of this command is determined by."""

    seed: int = 0
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 2e-3
    latent_noise: float = 0.15  # the spread of the posterior, fixed
    prior_weight: float = 1e-3
    edge_weight: float = 0.5
    steps_per_save: int = 250


def build_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL of factor 8, cheap at full resolution."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=world.SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def edges(x_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring rows and columns."""
    return x_B3HW.diff(dim=2), x_B3HW.diff(dim=3)


def loss_of(model: AutoencoderKL, x_B3HW: Tensor, settings: Settings) -> Tensor:
    """Reconstruction in values and edges, and the pull of the latents to a unit Gaussian.

    The posterior's spread is fixed, so of the divergence only the square of the mean is left.
    """
    mean_BChw = model.quant_conv(model.encoder(x_B3HW))[:, :8]
    noise_BChw = torch.randn_like(mean_BChw)
    y_B3HW = model.decode(mean_BChw + settings.latent_noise * noise_BChw).sample
    return distance(x_B3HW, y_B3HW, mean_BChw, settings)


def distance(x_N3HW: Tensor, y_N3HW: Tensor, mean_NC: Tensor, settings: Settings) -> Tensor:
    """Of frames and their reconstructions in [-1, 1], in values and edges; and of the posterior's
    mean [N, C, ...] from 0."""
    loss: Tensor = (y_N3HW - x_N3HW).abs().mean() + (y_N3HW - x_N3HW).square().mean()
    for x, y in zip(edges(x_N3HW), edges(y_N3HW), strict=True):
        loss += settings.edge_weight * (x - y).abs().mean()
    loss += settings.prior_weight * mean_NC.square().mean()
    return loss


def draw_frames(
    generator: torch.Generator, num_frames: int, glyphs: tuple[Tensor, Tensor]
) -> Tensor:
    """Frames of different clips as the autoencoder sees them: [B, 3, H, W] in [-1, 1]."""
    clips = data.draw_clips(generator, num_frames, world.NUM_FRAMES, glyphs)
    moment_B = torch.randint(world.NUM_FRAMES, (num_frames,), generator=generator)
    return clips.frames(moment_B, torch.arange(num_frames)) * 2 - 1


@torch.no_grad()
def encode_mean(model: AutoencoderKL, x_B3HW: Tensor) -> Tensor:
    """The posterior's mean for frames in [-1, 1]."""
    mean_BChw: Tensor = model.encode(x_B3HW).latent_dist.mode()
    return mean_BChw


@torch.no_grad()
def psnr(model: AutoencoderKL, x_B3HW: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of frames in [-1, 1]."""
    y_B3HW = model.decode(encode_mean(model, x_B3HW)).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / (y_B3HW - x_B3HW).square().mean()))


@torch.no_grad()
def whiten(quant: Conv, post: Conv, mean_BC: Tensor) -> Tensor:
    """Fold a principal-component whitening of latents into the two 1x1 convolutions around them.

    mean_BC   the means of the posterior [B, C, ...], as `quant` gives them now
    Afterwards their channels are uncorrelated, of mean 0 and of variance 1, and decode(encode(x))
    is what it was; weak components keep a variance below 1 (see `floor`). The posterior's
    variance, which nothing uses, becomes negligible.
    Returns the variances of the components before, largest first.
    """
    z_CK = mean_BC.double().transpose(0, 1).flatten(1)
    centre_C = z_CK.mean(1)
    variance_C, basis_CC = torch.linalg.eigh(torch.cov(z_CK))
    floor = 0.02 * variance_C.max()
    scale_C = variance_C.clamp(min=floor).rsqrt()
    forward_CC = scale_C[:, None] * basis_CC.T
    backward_CC = basis_CC / scale_C
    channels = len(centre_C)
    assert quant.bias is not None and post.bias is not None
    into, out_of = quant.weight.flatten(1), post.weight.flatten(1)
    quant.bias[:channels] = forward_CC @ (quant.bias[:channels].double() - centre_C)
    into[:channels] = forward_CC @ into[:channels].double()
    into[channels:] = 0
    quant.bias[channels:] = -30
    weight_CC = out_of.double()
    post.bias += weight_CC @ centre_C
    out_of.copy_(weight_CC @ backward_CC)
    components_C: Tensor = variance_C.flip(0)
    return components_C


def fit(
    model: nn.Module,
    settings: Settings,
    out: Path,
    optimizers: Sequence[torch.optim.Optimizer],
    loss_at: Callable[[int, torch.Generator], Tensor],
    psnr_now: Callable[[], float],
) -> None:
    """Train from the checkpoint in `out`, if there is one, to the end of the settings.

    optimizers  of the model's parameters, each to follow one cycle of the learning rate
    loss_at     the loss of a step's batch, drawn by a generator that is seeded with the step
    psnr_now    in dB on held-out digits, for the log
    """
    schedules: list[Any] = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, settings.steps, pct_start=0.05
        )
        for optimizer in optimizers
    ]
    path = out / "autoencoder.pt"
    first_step, seconds = 0, 0.0
    if state := checkpoint.load(path):
        model.load_state_dict(state["model"])
        for part, saved in zip([*optimizers, *schedules], state["optimizing"], strict=True):
            part.load_state_dict(saved)
        first_step, seconds = state["step"], state["seconds"]
    started = time.monotonic() - seconds
    for step in range(first_step, settings.steps):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_at(step, generator)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in [*optimizers, *schedules]:
            part.step()
        if (step + 1) % settings.steps_per_save == 0 or step + 1 == settings.steps:
            seconds = time.monotonic() - started
            row = {"step": step + 1, "seconds": seconds, "loss": loss.item()}
            checkpoint.log_row(out / "autoencoder.csv", **row, psnr_db=psnr_now())
            state = {"model": model.state_dict(), "step": step + 1, "seconds": seconds}
            state |= {"optimizing": [part.state_dict() for part in [*optimizers, *schedules]]}
            checkpoint.save(path, state)
    model.eval()


def train(settings: Settings, out: Path) -> None:
    """Train to the end and leave `out`/vae in diffusers format."""
    torch.manual_seed(settings.seed)
    glyphs, unseen = data.split_glyphs(held_out=False), data.split_glyphs(held_out=True)
    model = build_autoencoder()

    def loss_at(_: int, generator: torch.Generator) -> Tensor:
        return loss_of(model, draw_frames(generator, settings.batch_size, glyphs), settings)

    test_B3HW = draw_frames(torch.Generator().manual_seed(1), 128, unseen)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, betas=(0.9, 0.99))
    fit(model, settings, out, [optimizer], loss_at, lambda: psnr(model, test_B3HW))
    test_B3HW = draw_frames(torch.Generator().manual_seed(2), 2000, glyphs)
    unseen_B3HW = draw_frames(torch.Generator().manual_seed(3), 500, unseen)
    before = psnr(model, unseen_B3HW)
    mean_BChw = encode_mean(model, test_B3HW)
    variance_C = whiten(model.quant_conv, model.post_quant_conv, mean_BChw)
    print("variances of the latents' components:", [round(float(v), 4) for v in variance_C])
    after = psnr(model, unseen_B3HW)
    print(f"PSNR on held-out digits: {before:.2f} dB, after whitening {after:.2f} dB")
    model.save_pretrained(out / "vae")


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    parser.add_argument("--steps", type=int, default=Settings.steps)
    arguments = parser.parse_args()
    train(Settings(steps=arguments.steps), arguments.out)


if __name__ == "__main__":
    main()
