"""Noise keyed by what it is for, never by who draws it. Pure.

Every draw has its own generator, seeded by a hash of (seed, latent frame, step), on the CPU,
so that the same video comes from any number of ranks and any kind of device.

Legend: B batch (1), C channels, F frames, H height, W width (of latents)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

INITIAL_STEP, SHUFFLE_STEP, QUEUE_STEP, HELD_STEP = -1, -2, -3, -4
"""Keys for the noise that a video starts from, for its shuffles, for a queue's first frames, and
for frames that are held to what is known: HELD_STEP at their step 0, one less at each after it."""


def frame_generator(seed: int, frame: int, step: int) -> torch.Generator:
    """A CPU generator for what is drawn at one latent frame and one step of one seed."""
    key = f"{seed}/{frame}/{step}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    generator = torch.Generator("cpu")
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


def initial_noise(
    seed: int,
    frames: Iterable[int],
    shape_CHW: tuple[int, int, int],
    *,
    key: int = INITIAL_STEP,
) -> torch.Tensor:
    """Unit noise of the given latent frames.

    Returns float32 [1, C, F, H, W] on the CPU, before the scheduler's init_noise_sigma.
    """
    noise_FCHW = torch.stack(
        [torch.randn(shape_CHW, generator=frame_generator(seed, frame, key)) for frame in frames]
    )
    return noise_FCHW.transpose(0, 1)[None].contiguous()


def shuffled_frames(
    seed: int, num_frames: int, window_frames: int, stride_frames: int
) -> list[int]:
    """Of every frame of a timeline, the frame of the first window whose noise it begins with.

    The `stride_frames` frames at i are a shuffled copy of those at i - window_frames, for
    i = window_frames, window_frames + stride_frames, and so on. A longer video begins as a shorter.
    Source: Qiu et al., FreeNoise (2023), section 3.1.
    """
    source = list(range(min(num_frames, window_frames)))
    for start in range(window_frames, num_frames, stride_frames):
        generator = frame_generator(seed, start, SHUFFLE_STEP)
        order = torch.randperm(stride_frames, generator=generator).tolist()
        copied = [source[start - window_frames + place] for place in order]
        source += copied[: num_frames - start]
    return source
