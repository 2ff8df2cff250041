"""Every clip a whole video of its own: no exchange. The lower bound of time, and of coherence.

The timeline is cut into as few clips of `window_frames` at most as it takes, alike in length, each
of which the unmodified model makes. So the length of a clip is the request's, and ranks do not
show. Where the first latent frame means something of its own (Wan), only the video's first one is
decoded as such.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.config import chosen
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.shared_windows import denoise_in_windows
from video_infinity.windows import even_spans


def denoise_independent(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clips, one after the other at every step."""
    return denoise_in_windows(job, even_spans(job.num_frames, chosen(job.how.window_frames)))
