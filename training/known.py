"""Clips of which some frames are known: clean, at timestep 0, to be gone on from.

It is what the autoregressive methods ask of a denoiser, and what one that was trained on one noise
level for all frames of a pass has never seen.

Shapes: B clips, F frames, K = B * F.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import torch
from diffusers import UNet3DConditionModel
from torch import Tensor

from video_infinity.adapters.unet3d import sites_of
from video_infinity.context.frame_times import FrameTimeProjection
from video_infinity.context.install import ModuleSite, swapped

LARGEST_SHARE = 0.75  # of a clip that is known


def draw_known(generator: torch.Generator, num_clips: int, num_frames: int, share: float) -> Tensor:
    """known_BF: so many clips, on average, have a known beginning of 1 ... 3/4 of their frames."""
    has_known_B = torch.rand(num_clips, generator=generator) < share
    longest = max(1, int(LARGEST_SHARE * num_frames))
    length_B = torch.randint(1, longest + 1, (num_clips,), generator=generator) * has_known_B
    known_BF: Tensor = torch.arange(num_frames) < length_B[:, None]
    return known_BF


@contextmanager
def frame_timesteps(unet: UNet3DConditionModel, timestep_K: Tensor) -> Iterator[None]:
    """Inside, every frame has a timestep of its own, by the layers that the engine uses."""
    context = cast(Any, SimpleNamespace(timestep_K=timestep_K))
    with ExitStack() as stack:
        for site in sites_of(unet).frame_times:
            place = ModuleSite(site.parent, site.attribute)
            stack.enter_context(swapped(place, FrameTimeProjection(site, context)))
        yield
