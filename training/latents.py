"""A pool of encoded clips that is filled little by little while the denoiser trains.

Shapes: N clips, F frames, C = 8 channels, h = w = 8.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from training import data, world


@torch.no_grad()
def encode(vae: AutoencoderKL, frames_B3HW: Tensor) -> Tensor:
    """Latents [B, C, h, w] of frames in [0, 1]."""
    latents_BChw: Tensor = vae.encode(frames_B3HW * 2 - 1).latent_dist.mode()
    latents_BChw *= vae.config.scaling_factor
    return latents_BChw


@torch.no_grad()
def decode(vae: AutoencoderKL, latents_BChw: Tensor) -> Tensor:
    """Frames [B, 3, H, W] in [0, 1] of latents."""
    frames_B3HW: Tensor = vae.decode(latents_BChw / vae.config.scaling_factor).sample
    return (frames_B3HW / 2 + 0.5).clamp(0, 1)


CLIP_FRAMES = 64


class LatentPool:
    """Encoded clips of CLIP_FRAMES frames; the oldest make room once it is full.

    A trained clip is a window of them: the first, or a later one where the denoiser gets known
    frames that it has to go on from.

    What the pool holds is a function of the seed and of the number of clips added so far.
    """

    def __init__(
        self, vae: AutoencoderKL, glyphs: tuple[Tensor, Tensor], capacity: int, seed: int
    ) -> None:
        self._vae = vae
        self._glyphs = glyphs
        self._seed = seed
        self._added = 0
        size = world.SIZE // 8
        self._latents_NFChw = torch.empty(
            capacity, CLIP_FRAMES, vae.config.latent_channels, size, size, dtype=torch.float16
        )
        self._scene_N = torch.empty(capacity, dtype=torch.int64)

    def __len__(self) -> int:
        return min(self._added, len(self._scene_N))

    def add(self, num_clips: int) -> None:
        """Draw and encode `num_clips` more clips."""
        for _ in range(num_clips):
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._added)
            clip = data.draw_clips(generator, 1, CLIP_FRAMES, self._glyphs)
            moment_F = torch.arange(CLIP_FRAMES)
            frames_F3HW = clip.frames(moment_F, torch.zeros_like(moment_F))
            place = self._added % len(self._scene_N)
            self._latents_NFChw[place] = encode(self._vae, frames_F3HW).half()
            self._scene_N[place] = clip.scene[0]
            self._added += 1

    def draw_frames(self, generator: torch.Generator, num_frames: int) -> tuple[Tensor, Tensor]:
        """Frames of different clips: latents [B, C, 1, h, w] and scene_B."""
        clip_B = torch.randint(len(self), (num_frames,), generator=generator)
        moment_B = torch.randint(CLIP_FRAMES, (num_frames,), generator=generator)
        return self._latents_NFChw[clip_B, moment_B].float()[:, :, None], self._scene_N[clip_B]

    def draw_clips(
        self,
        generator: torch.Generator,
        num_clips: int,
        num_frames: int,
        later_N: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Windows [B, C, F, h, w] of clips and scene_B.

        later_N  which of them may begin anywhere; the others begin with the clip
        """
        clip_B = torch.randint(len(self), (num_clips,), generator=generator)
        start_B = torch.randint(CLIP_FRAMES - num_frames + 1, (num_clips,), generator=generator)
        if later_N is None:
            later_N = torch.zeros(num_clips, dtype=torch.bool)
        moment_BF = (start_B * later_N)[:, None] + torch.arange(num_frames)
        latents_BFChw = self._latents_NFChw[clip_B[:, None], moment_BF]
        return latents_BFChw.float().transpose(1, 2), self._scene_N[clip_B]
