"""Motion between two frames, and what follows from it: warped frames, residuals, occlusions.

Flow is dense, in pixels: frame 0 at p looks like frame 1 at p + flow(p).

H height, W width, C = 3.
"""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.footage import Frame

Array = npt.NDArray[np.float32]
FLOW_SIDE = 256
"""Flow is sought on frames whose shorter side is no longer than this."""
MIN_SIDE = 16
TOP_SHARE = 0.05


class Flow(Protocol):
    """A source of optical flow. label: for the table; `not comparable` if VBench's is another."""

    label: str

    def __call__(self, first_HW: npt.NDArray[np.uint8], second_HW: npt.NDArray[np.uint8]) -> Array:
        """flow_HW2 in pixels (columns, rows), from the first frame to the second."""


class DisFlow:
    """OpenCV's dense inverse search, the medium preset.

    Source: Kroeger, Timofte, Dai, Van Gool, "Fast Optical Flow using Dense Inverse Search" (2016).
    """

    label = "OpenCV's DIS flow, not comparable"

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, first_HW: npt.NDArray[np.uint8], second_HW: npt.NDArray[np.uint8]) -> Array:
        if min(first_HW.shape) < MIN_SIDE:
            height, width = first_HW.shape
            raise EvaluationError(
                f"frames of {width}x{height} are too small for optical flow, which needs "
                f"{MIN_SIDE} pixels a side; make the video larger"
            )
        flow: Any = self._search.calc(first_HW, second_HW, None)  # type: ignore[call-overload]
        return np.asarray(flow, np.float32)


def gray_of(frame_HWC: Frame) -> npt.NDArray[np.uint8]:
    """Luma of a frame, shrunk so that its shorter side is at most FLOW_SIDE."""
    gray_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
    height, width = gray_HW.shape
    scale = FLOW_SIDE / min(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        gray_HW = cv2.resize(gray_HW, size, interpolation=cv2.INTER_AREA)
    return np.asarray(gray_HW, np.uint8)


def at_size(flow_HW2: Array, height: int, width: int) -> Array:
    """The same flow for frames of another size."""
    rows, columns = flow_HW2.shape[:2]
    if (rows, columns) == (height, width):
        return flow_HW2
    scale = np.array([width / columns, height / rows], np.float32)
    return np.asarray(cv2.resize(flow_HW2, (width, height)) * scale, np.float32)


def warp(image: npt.NDArray[Any], flow_HW2: Array, share: float = 1.0) -> npt.NDArray[Any]:
    """`image` read at p + share * flow(p), between pixels linearly; the edge goes on outside."""
    height, width = flow_HW2.shape[:2]
    column_HW, row_HW = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height))
    return cv2.remap(
        image,
        column_HW + np.float32(share) * flow_HW2[..., 0],
        row_HW.astype(np.float32) + np.float32(share) * flow_HW2[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def in_between(before_HWC: Frame, after_HWC: Frame, flow_HW2: Array) -> Frame:
    """The frame half-way, by motion at constant speed: the mean of both, each moved by half.

    flow_HW2  from `before` to `after`, taken as the flow through the point half-way
    """
    flow_HW2 = at_size(flow_HW2, *before_HWC.shape[:2])
    first = warp(before_HWC.astype(np.float32), flow_HW2, -0.5)
    second = warp(after_HWC.astype(np.float32), flow_HW2, 0.5)
    return np.asarray((first + second) / 2 + 0.5, np.float32).clip(0, 255).astype(np.uint8)


def visible(forward_HW2: Array, backward_HW2: Array) -> npt.NDArray[np.bool_]:
    """Where a point of the first frame is there in the second as well: both flows agree.

    Source: Sundaram, Brox, Keutzer (2010), with the constants of Ruder, Dosovitskiy, Brox (2016).
    """
    height, width = forward_HW2.shape[:2]
    back_HW2 = warp(backward_HW2, forward_HW2)
    apart_HW = ((forward_HW2 + back_HW2) ** 2).sum(2)
    size_HW = (forward_HW2**2).sum(2) + (back_HW2**2).sum(2)
    column_HW = np.arange(width) + forward_HW2[..., 0]
    row_HW = np.arange(height)[:, None] + forward_HW2[..., 1]
    inside_HW = (column_HW >= 0) & (column_HW <= width - 1) & (row_HW >= 0) & (row_HW <= height - 1)
    return np.asarray((apart_HW <= 0.01 * size_HW + 0.5) & inside_HW)


def residual(first_HW: npt.NDArray[np.uint8], second_HW: npt.NDArray[np.uint8], flow: Array) -> Any:
    """|first - second moved back|, float32 in [0, 1], per pixel: what motion does not explain."""
    moved_HW = warp(second_HW.astype(np.float32), flow)
    return np.abs(first_HW.astype(np.float32) - moved_HW) / 255


def top_motion(flow_HW2: Array) -> float:
    """Mean length of the longest 5 % of the vectors, in pixels.

    Source: VBench 0.1.5, `dynamic_degree.DynamicDegree.get_score`.
    """
    length_N = np.sqrt((flow_HW2.astype(np.float64) ** 2).sum(2)).ravel()
    count = int(len(length_N) * TOP_SHARE)
    if not count:
        return float(length_N.max())
    return float(np.partition(length_N, len(length_N) - count)[-count:].mean())
