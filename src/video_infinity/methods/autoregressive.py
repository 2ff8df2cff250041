"""Chunks one after the other, each conditioned on the last frames of what exists, by replacement.

Source: the scheme of Henschel et al., StreamingT2V (2024): 16 frames at a time, conditioned on the
last 8, of which 8 are new. The replacement is that of Lugmayr et al., RePaint (2022), without its
resampling; Ho et al., Video Diffusion Models (2022), continue videos by it.

What differs from the original: StreamingT2V conditions through modules that were trained for it (a
copy of the encoder whose features enter the skips, and an image embedding of an anchor frame among
the text tokens). Here nothing is trained: at every step the known frames are put in as they would
be at that noise level, so that the model sees them next to what it makes, and at the end they are
as they were, bit for bit. That holds a chunk to its predecessor less firmly, and nothing reminds it
of the first one. Its enhancement stage (randomized blending at a higher resolution) is left out.
The last chunk ends with the video, and so begins with more known frames than the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.continuation import denoise_chunks
from video_infinity.sampling import noised


def denoise_autoregressive(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise chunk after chunk; known frames have the noise of the step that is taken."""
    return denoise_chunks(job, noised, told=False)
