"""Overlapping windows, each predicted alone, averaged at every step.

Source: Wang et al., Gen-L-Video (2023), after Bar-Tal et al., MultiDiffusion (2023).

What differs from the original: predictions are averaged, and then the scheduler steps once; the
original steps every window and averages the latents. For a scheduler whose step is affine in the
prediction (DDIM, Euler, multistep ones without thresholding) that is the same, since the windows of
a frame share its latents, its draws and its history; and multistep schedulers, which the original
excludes, work. Every frame reads its own prompt, not one prompt for its window; with one prompt
that is the same. One more window covers the tail. A model whose first latent frame stands for
something else than the others (Wan) takes a window's first frame for a video's beginning: for that
frame the other windows over it count alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.config import chosen
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.shared_windows import denoise_in_windows
from video_infinity.windows import Windows


def denoise_multidiffusion(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip by the mean of the windows over each of its frames."""
    windows = Windows(chosen(job.how.window_frames), chosen(job.how.stride_frames))
    return denoise_in_windows(job, windows.spans(job.num_frames))
