"""VBench's formulas, pure: what the backends give goes in, a score comes out.

They are those of the package `vbench` 0.1.5, to its rounding; `tests/evaluation` runs both side by
side. Of the seven dimensions of the paper's table five are here. Aesthetic quality is a mean of
what a network says of each frame (`official.py`). Imaging quality is one of MUSIQ, which runs in
VBench's own environment alone; what stands in for it has another formula and scale (`niqe.py`).

F frames, P pairs of neighbours, D features.
Source: Huang et al., "VBench: Comprehensive Benchmark Suite for Video Generative Models" (2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
SAMPLED_FPS = 8


def flickering(difference_P: Sequence[float]) -> float:
    """Temporal flickering in [0, 1]; 1 for a frozen video.

    difference_P  mean |f_i - f_i+1| of each pair, in levels of 255
    """
    return float((255.0 - np.mean(difference_P)) / 255.0)


def smoothness(difference_K: Sequence[float]) -> float:
    """Motion smoothness in [0, 1].

    difference_K  mean |frame - interpolated frame| of every odd frame between two even ones, in
                  levels of 255
    """
    return float((255.0 - np.mean(difference_K)) / 255.0)


def consistency_parts(features_FD: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Cosines of frames 1 ... F-1 with the frame before and with the first, [F-1, 2]; none below 0.

    The consistency of subject (DINO) or background (CLIP) is the mean over both and all frames.
    """
    parts_P2 = np.empty((len(features_FD) - 1, 2))
    first_D = before_D = _unit(features_FD[0])
    for pair, feature_D in enumerate(features_FD[1:]):  # one by one, for memory
        unit_D = _unit(feature_D)
        parts_P2[pair] = unit_D @ before_D, unit_D @ first_D
        before_D = unit_D
    return np.asarray(np.maximum(parts_P2, 0.0))


def _unit(feature_D: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    wide_D = np.asarray(feature_D, np.float64)
    return np.asarray(wide_D / max(float(np.linalg.norm(wide_D)), 1e-12))


def consistency(features_FD: npt.NDArray[np.floating]) -> float:
    """Mean of `consistency_parts`; 1 for a frozen video."""
    return float(consistency_parts(features_FD).mean())


def sampled_every(fps: float) -> int:
    """The dynamic degree looks at every so many-th frame: about SAMPLED_FPS a second."""
    return max(1, round(fps / SAMPLED_FPS))


def is_dynamic(motion_P: Sequence[float], shorter_side_px: int) -> bool:
    """Dynamic degree of one video; that of many is the share that is dynamic.

    motion_P  mean of the longest 5 % of the flow between sampled frames, in pixels of the frame
    A pair counts above 6 pixels at a shorter side of 256, and it takes a quarter of the frames.
    As in VBench, two frames are always dynamic: a quarter of them rounds to none.
    """
    threshold_px = 6.0 * (shorter_side_px / 256.0)
    needed = round(4 * ((len(motion_P) + 1) / 16.0))
    return len(motion_P) > 0 and sum(motion > threshold_px for motion in motion_P) >= needed
