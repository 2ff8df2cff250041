"""The model on all frames at once: quadratic in the frames, and out of its trained length.

It is clip parallelism whose local scope is the whole video (promise 3), so that it runs on any
number of ranks. What differs from the unmodified pipeline is the place of the work alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.clip_parallel import denoise_clip_parallel


def denoise_direct(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip; the plan's local scope holds every frame."""
    assert job.plan.local_frames == job.num_frames - 1
    return denoise_clip_parallel(job)
