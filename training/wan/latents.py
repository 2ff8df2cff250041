"""A pool of encoded clips that is filled while the transformer trains.

Shapes: N clips, F latent frames, C = 16 channels, h = w = 8.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.wan.autoencoder import FRAMES_PER_LATENT, LATENT_CHANNELS, draw_videos, encode_mean

TRAINED_FRAMES = 13
"""Latent frames of a training clip: 49 pixel frames, in which a digit bounces about four times."""

CLIP_FRAMES = 17
"""Latent frames of a clip in the pool; later windows are for clips with a known beginning."""


class LatentPool:
    """Encoded clips of CLIP_FRAMES latent frames; the oldest make room once it is full.

    What the pool holds is a function of the seed and of the number of clips added so far.
    """

    def __init__(
        self, vae: AutoencoderKLWan, glyphs: tuple[Tensor, Tensor], capacity: int, seed: int
    ) -> None:
        self._vae, self._glyphs, self._seed = vae, glyphs, seed
        self._added = 0
        shape = (capacity, LATENT_CHANNELS, CLIP_FRAMES, 8, 8)
        self._latents_NCFhw = torch.empty(shape, dtype=torch.float16)
        self._scene_N = torch.empty(capacity, dtype=torch.int64)

    def __len__(self) -> int:
        return min(self._added, len(self._scene_N))

    @torch.no_grad()
    def add(self, num_clips: int) -> None:
        """Draw and encode `num_clips` more clips at once."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._added)
        pixel_frames = (CLIP_FRAMES - 1) * FRAMES_PER_LATENT + 1
        videos, scene_N = draw_videos(generator, num_clips, pixel_frames, self._glyphs)
        with torch.autocast("cpu", torch.bfloat16):
            latents_NCFhw = encode_mean(self._vae, videos)
        place_N = torch.arange(self._added, self._added + num_clips) % len(self._scene_N)
        self._latents_NCFhw[place_N] = latents_NCFhw.half()
        self._scene_N[place_N] = scene_N
        self._added += num_clips

    def draw(
        self, generator: torch.Generator, num_clips: int, num_frames: int, later_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Windows [B, C, F, h, w] of clips, and scene_B.

        later_N  which of them may begin anywhere; the others begin with the clip
        """
        clip_B = torch.randint(len(self), (num_clips,), generator=generator)
        start_B = torch.randint(CLIP_FRAMES - num_frames + 1, (num_clips,), generator=generator)
        moment_BF = (start_B * later_N)[:, None] + torch.arange(num_frames)
        latents_BFChw = self._latents_NCFhw.transpose(1, 2)[clip_B[:, None], moment_BF]
        return latents_BFChw.float().transpose(1, 2), self._scene_N[clip_B]
