"""The room that a run directory takes at most, known before the run."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from video_infinity.adapters import ModelFacts
from video_infinity.cadence import Cadence
from video_infinity.config import Request, chosen
from video_infinity.errors import OutputError

TENSORS = 6
"""Latents, and the most that a scheduler of diffusers keeps of earlier steps (PNDM: five)."""
CHECKPOINTS = 3
"""Two that are whole, and one that is being written."""
VALUE_BYTES = 4


def run_dir_bytes(request: Request, facts: ModelFacts) -> dict[str, int]:
    """Bytes of checkpoints and of finished pictures, of a prepared request.

    What a causal decoder carries from chunk to chunk comes on top: it does not grow with the video.
    """
    if Cadence.parse(request.run.checkpoint_every).is_never:
        return {"checkpoints": 0, "pictures": 0}
    video = request.video
    height, width = chosen(video.height), chosen(video.width)
    num_frames = chosen(video.num_frames)
    frame_values = math.prod(facts.latent_shape_CHW(height, width))
    latents = facts.num_latent_frames(num_frames) * frame_values * VALUE_BYTES
    return {
        "checkpoints": latents * TENSORS * CHECKPOINTS,
        "pictures": num_frames * height * width * 3,
    }


def check_space(request: Request, facts: ModelFacts, place: Path) -> None:
    """Raise OutputError if the disk of the run directory is too small for it."""
    needed = sum(run_dir_bytes(request, facts).values())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OutputError(
            f"checkpoints and finished pictures take up to {needed / 1e6:.0f} MB, and {place} has "
            f"{free / 1e6:.0f} MB left; make room, name a --run-dir on a larger disk, or give "
            "--checkpoint-every never"
        )
