"""Chunks one after the other, whose first frames are known to the denoiser: clean, at timestep 0.

Source: the scheme of Open-Sora 1.1 (2024): the last k latents of a clip stand at the front of the
next, with timestep 0, and the rest is denoised; they are dropped on joining.

What differs from the original: latents are handed on as they are, not decoded and encoded anew. A
chunk has the model's trained length and a quarter of it is known (4 of 16), or a few frames more:
chunks are spread evenly over the video.

Open-Sora was trained with random masks over frames. A model that was not (`knows_frames` in its
facts) takes a timestep for every frame, through the same weights, but has never seen frames of
different noise in one pass: then this is a baseline of the scheme and not of Open-Sora's quality. A
denoiser that takes one timestep for all frames, as one with two experts by noise level, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.continuation import clean, denoise_chunks


def denoise_masked_continuation(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise chunk after chunk; known frames stay clean, and the denoiser is told so."""
    return denoise_chunks(job, clean, told=True)
