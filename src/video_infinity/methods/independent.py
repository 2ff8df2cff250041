"""Every clip a whole video of its own: no exchange. The lower bound of time, and of coherence.

The timeline is cut into as few clips of `window_frames` at most as it takes, alike in length, each
of which the unmodified model makes. So the length of a clip is the request's, and ranks do not
show. Where the first latent frame means something of its own (Wan), only the video's first one is
decoded as such.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.config import MethodSpec, chosen
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.shared_windows import denoise_in_windows
from video_infinity.windows import even_spans, joins_of


def clips_of(how: MethodSpec, num_frames: int) -> tuple[range, ...]:
    """The clips of the timeline."""
    return even_spans(num_frames, chosen(how.window_frames))


def joins_of_clips(how: MethodSpec, num_frames: int) -> tuple[int, ...]:
    return joins_of(clips_of(how, num_frames))


def denoise_independent(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clips, one after the other at every step."""
    return denoise_in_windows(job, clips_of(job.how, job.num_frames))
