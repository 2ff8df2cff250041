"""Chunks one after the other, each conditioned on the last frames of what exists.

Source: the scheme of Henschel et al., StreamingT2V (2024): 16 frames at a time, conditioned on the
last 8, of which 8 are new. Where that is by replacement, it is that of Lugmayr et al., RePaint
(2022), without its resampling; Ho et al., Video Diffusion Models (2022), continue videos by it.

What differs from the original: StreamingT2V conditions through modules that were trained for it (a
copy of the encoder whose features enter the skips, and an image embedding of an anchor frame among
the text tokens). Here a model that was trained to go on from clean frames (`knows_frames` in its
facts) gets them so, at timestep 0. Any other, and with `--conditioning replacement` every one, goes
on untrained: at every step the known frames are put in as they would be at that noise level, so
that the model sees them next to what it makes. That holds a chunk to its predecessor less firmly.
Either way they end as they were, bit for bit, and nothing reminds a chunk of the first one. The
enhancement stage (randomized blending at a higher resolution) is left out. Chunks are spread evenly
over the video, so that some begin with a few more known frames than a window less a stride.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.config import chosen
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.continuation import clean, denoise_chunks
from video_infinity.sampling import noised


def denoise_autoregressive(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise chunk after chunk; known frames are clean, or have the noise of the step that is
    taken, as `job.how.conditioning` says."""
    told = chosen(job.how.conditioning) == "clean"
    return denoise_chunks(job, clean if told else noised, told=told)
