"""Noise keyed by what it is for, never by who draws it. Pure.

Every draw has its own generator, seeded by a hash of (seed, latent frame, step), on the CPU,
so that the same video comes from any number of ranks and any kind of device.

Legend: B batch (1), C channels, F frames, H height, W width (of latents)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

INITIAL_STEP = -1
"""The key that stands for the noise which a video starts from."""


def frame_generator(seed: int, frame: int, step: int) -> torch.Generator:
    """A CPU generator for what is drawn at one latent frame and one step of one seed."""
    key = f"{seed}/{frame}/{step}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    generator = torch.Generator("cpu")
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


def initial_noise(
    seed: int, frames: Iterable[int], shape_CHW: tuple[int, int, int]
) -> torch.Tensor:
    """Unit noise of the given latent frames.

    Returns float32 [1, C, F, H, W] on the CPU, before the scheduler's init_noise_sigma.
    """
    noise_FCHW = torch.stack(
        [
            torch.randn(shape_CHW, generator=frame_generator(seed, frame, INITIAL_STEP))
            for frame in frames
        ]
    )
    return noise_FCHW.transpose(0, 1)[None].contiguous()
