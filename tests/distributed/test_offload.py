"""A pipeline whose weights diffusers keeps elsewhere and brings by blocks, or layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_pipe
from tests.tiny_wan import tiny_wan_pipe
from video_infinity.adapters import Adapter
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import SingleCommunicator
from video_infinity.config import Request, resolve
from video_infinity.engine import ClipRun
from video_infinity.planning import make_plan
from video_infinity.progress import silent
from video_infinity.timeline import PromptTimeline

CPU = torch.device("cpu")
SIZES = {tiny_pipe: 8, tiny_wan_pipe: 64}


def latents(pipe: Any, pixels: int) -> torch.Tensor:
    return latents_of(adapter_of(pipe), pixels)


def latents_of(adapter: Adapter, pixels: int) -> torch.Tensor:
    options = {"num_frames": 9, "num_inference_steps": 2, "height": pixels, "width": pixels}
    request = Request.from_options(PromptTimeline.single("a b"), options)
    request = resolve(request, adapter.facts.defaults)
    plan = make_plan(request, adapter.facts, 1)
    return ClipRun(request, adapter, SingleCommunicator(), plan, silent).denoise()


@pytest.mark.parametrize("make", SIZES, ids=lambda make: str(make.__name__))
@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload_keeps_working(make: Any, level: str, tmp_path: Path) -> None:
    """On disk, weights are really gone between the calls, as they are from a GPU."""
    pipe = make()
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    denoiser.enable_group_offload(
        onload_device=CPU,
        offload_device=CPU,
        offload_type=level,
        num_blocks_per_group=1 if level == "block_level" else None,
        offload_to_disk_path=str(tmp_path),
    )
    whole = make()
    # What comes from disk wants no gradients, on which a Linear's order of sums can depend.
    (getattr(whole, "unet", None) or whole.transformer).requires_grad_(False)
    assert torch.equal(latents(pipe, SIZES[make]), latents(whole, SIZES[make]))
