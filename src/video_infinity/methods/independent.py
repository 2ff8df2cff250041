"""Every clip a whole video of its own: no exchange. The lower bound of time, and of coherence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from video_infinity.comm import SingleCommunicator
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.clip_parallel import denoise_clip_parallel
from video_infinity.plan import Clip, Plan


def denoise_independent(job: DenoiseJob) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip with its own ends, moments and global frames.

    The one method whose video depends on how the timeline is shared out.
    """
    alone = Plan((Clip(0, len(job.clip)),), job.plan.scopes)
    yield from denoise_clip_parallel(replace(job, comm=SingleCommunicator(), plan=alone))
