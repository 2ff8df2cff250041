"""FreeNoise: the first window's noise, shuffled, and temporal attention in overlapping windows.

Source: Qiu et al., FreeNoise: Tuning-Free Longer Video Diffusion via Noise Rescheduling (2023).

The noise is `--noise freenoise` (noise.py, `shuffled_frames`), which other methods can begin with
as well. All but the attention over time runs over the whole timeline, as the original has it.

What differs from the original: it runs on any number of ranks, by the exchange of clip
parallelism, since the frames that a clip's windows reach lie within a window of it. One more window
covers the tail. Prompts over time are the timeline's, a text for every frame at every step and
layer, not the original's motion injection. In a transformer that attends over space and time at
once (Wan), all of that attention is in windows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.clip_parallel import denoise_clip_parallel


def denoise_freenoise(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip; the plan says that attention is in windows."""
    assert job.plan.scopes.windows is not None
    return denoise_clip_parallel(job)
