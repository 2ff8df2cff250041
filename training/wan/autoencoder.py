"""Train the second model's causal autoencoder: 64x64 frames to 16 channels of 8x8, four to one.

`python -m training.wan.autoencoder` continues where an interrupted run stopped.

Shapes: B clips, C = 16 latent channels, P pixel frames, F = (P - 1) / 4 + 1 latent frames,
H = W = 64 pixels, h = w = 8.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor, nn

from training import data
from training.autoencoder import Settings, distance, fit, whiten
from video_infinity.adapters.wan_vae import chunked
from video_infinity.comm import SingleCommunicator
from video_infinity.context.chunks import Chunks, ChunkStream

LATENT_CHANNELS = 16
FRAMES_PER_LATENT = 4
CLIP_FRAMES = 13  # pixel frames of a training clip: one latent that stands for one, three for four


SETTINGS = Settings(steps=1500, batch_size=4, learning_rate=3e-3, steps_per_save=50)
STILL_STEPS, STILL_BATCH = 500, 32
"""The first steps see single frames: many scenes at once, and nothing of time yet."""


def build_autoencoder() -> AutoencoderKLWan:
    """An untrained autoencoder of Wan 2.2's layout: a patch of 2x2 pixels, then twice by two.

    Time is halved twice on the way, so that all of it is cheap at full resolution.
    """
    return AutoencoderKLWan(
        base_dim=32,
        decoder_base_dim=32,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=FRAMES_PER_LATENT,
        scale_factor_spatial=8,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def encode_mean(model: AutoencoderKLWan, x_B3PHW: Tensor) -> Tensor:
    """The posterior's mean [B, C, F, h, w] for frames in [-1, 1]."""
    mean_BCFhw: Tensor = model.encode(x_B3PHW).latent_dist.mode()
    return mean_BCFhw


def decode(model: AutoencoderKLWan, z_BCFhw: Tensor) -> Tensor:
    """Frames of latents, not clamped. All at once, as the engine's layers do it, and so faster
    than latent by latent; the result is the same."""
    num_frames = z_BCFhw.shape[2]
    stream = ChunkStream(SingleCommunicator(), Chunks(num_frames, num_frames))
    stream.begin(0)
    with chunked(model, stream):
        patches = model.decoder(model.post_quant_conv(z_BCFhw), first_chunk=True)
    y_B3PHW: Tensor = unpatchify(patches, model.config.patch_size)
    return y_B3PHW


def loss_of(model: AutoencoderKLWan, x_B3PHW: Tensor, settings: Settings) -> Tensor:
    """As for the first model's: values, edges in space, and the pull to a unit Gaussian."""
    mean_BCFhw = encode_mean(model, x_B3PHW)
    noise_BCFhw = torch.randn_like(mean_BCFhw)
    y_B3PHW = decode(model, mean_BCFhw + settings.latent_noise * noise_BCFhw).float()
    x_N3HW, y_N3HW = (v.transpose(1, 2).flatten(0, 1) for v in (x_B3PHW, y_B3PHW))
    return distance(x_N3HW, y_N3HW, mean_BCFhw.float(), settings)


def draw_videos(
    generator: torch.Generator,
    num_clips: int,
    num_frames: int,
    glyphs: tuple[Tensor, Tensor],
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Clips of the world from frame `first` on: [B, 3, P, H, W] in [-1, 1], and scene_B."""
    clips = data.draw_clips(generator, num_clips, first + num_frames, glyphs)
    moment_P = torch.arange(first, first + num_frames)
    videos = [clips.frames(moment_P, torch.full_like(moment_P, n)) for n in range(num_clips)]
    return torch.stack(videos).transpose(1, 2) * 2 - 1, clips.scene


def draw_windows(
    generator: torch.Generator, num_clips: int, num_frames: int, glyphs: tuple[Tensor, Tensor]
) -> Tensor:
    """Clips that begin anywhere: a digit may be about to bounce."""
    first = int(torch.randint(32, (1,), generator=generator))
    return draw_videos(generator, num_clips, num_frames, glyphs, first)[0]


class ConvMuon(torch.optim.Muon):
    """Muon over the weights of convolutions, each as a matrix with a row for every output.

    weights  with their channels last in memory, as `lay_out_for_cpu` leaves them
    """

    def __init__(self, weights: Sequence[nn.Parameter], learning_rate: float) -> None:
        self.weights = weights
        self.views = [nn.Parameter(as_matrix(weight.data)) for weight in weights]
        if any(v.data_ptr() != w.data_ptr() for v, w in zip(self.views, weights, strict=True)):
            raise ValueError("a weight's channels do not lie last in memory")
        super().__init__(
            self.views, learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, from the gradients of the weights themselves."""
        for view, weight in zip(self.views, self.weights, strict=True):
            view.grad = None if weight.grad is None else as_matrix(weight.grad)
        return super().step(closure)  # type: ignore[no-untyped-call]


def as_matrix(weight: Tensor) -> Tensor:
    """[outputs, everything else], the inputs' channels running fastest."""
    return weight.movedim(1, -1).flatten(1)


def build_optimizers(model: AutoencoderKLWan, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for convolutions, AdamW for gains and biases."""
    weights = [parameter for parameter in model.parameters() if is_kernel(parameter)]
    others = [parameter for parameter in model.parameters() if not is_kernel(parameter)]
    rate = settings.learning_rate
    return [ConvMuon(weights, rate), torch.optim.AdamW(others, rate, betas=(0.9, 0.99))]


def is_kernel(parameter: nn.Parameter) -> bool:
    """A convolution's weight, and no gain of a norm that has its shape."""
    return parameter.ndim >= 4 and len(parameter) > 1 and parameter.shape[1] > 1


@torch.no_grad()
def psnr(model: AutoencoderKLWan, x_B3PHW: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the reconstruction of frames in [-1, 1]."""
    y_B3PHW = decode(model, encode_mean(model, x_B3PHW)).clamp(-1, 1)
    return float(10 * torch.log10(4 / (y_B3PHW - x_B3PHW).square().mean()))


def lay_out_for_cpu(model: AutoencoderKLWan) -> None:
    """Weights of convolutions with their channels last: a step takes a quarter less."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            order = torch.channels_last_3d
        elif isinstance(module, nn.Conv2d):
            order = torch.channels_last
        else:
            continue
        module.weight.data = module.weight.data.contiguous(memory_format=order)


def train(settings: Settings, out: Path) -> None:
    """Train to the end and leave `out`/vae in diffusers format."""
    torch.manual_seed(settings.seed)
    glyphs, unseen = data.split_glyphs(held_out=False), data.split_glyphs(held_out=True)
    model = build_autoencoder()
    lay_out_for_cpu(model)

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        clips = (STILL_BATCH, 1) if step < STILL_STEPS else (settings.batch_size, CLIP_FRAMES)
        return loss_of(model, draw_windows(generator, *clips, glyphs), settings)

    test_B3PHW = draw_windows(torch.Generator().manual_seed(1), 12, CLIP_FRAMES, unseen)
    optimizers = build_optimizers(model, settings)
    fit(model, settings, out, optimizers, loss_at, lambda: psnr(model, test_B3PHW))
    finish(model, glyphs, unseen)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    model.save_pretrained(out / "vae")


@torch.no_grad()
def finish(
    model: AutoencoderKLWan, glyphs: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor]
) -> None:
    """Whiten the latents, and show that the pictures stay as they were."""
    generator = torch.Generator().manual_seed(2)
    means = [encode_mean(model, draw_videos(generator, 8, 49, glyphs)[0]) for _ in range(16)]
    unseen_B3PHW, _ = draw_videos(torch.Generator().manual_seed(3), 16, 49, unseen)
    before = psnr(model, unseen_B3PHW)
    variance_C = whiten(model.quant_conv, model.post_quant_conv, torch.cat(means))
    print("variances of the latents' components:", [round(float(v), 4) for v in variance_C])
    after = psnr(model, unseen_B3PHW)
    print(f"PSNR on held-out digits: {before:.2f} dB, after whitening {after:.2f} dB")


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training-wan"))
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    arguments = parser.parse_args()
    train(replace(SETTINGS, steps=arguments.steps), arguments.out)


if __name__ == "__main__":
    main()
