"""The world of the embedded model: handwritten digits that move and bounce.

A scene is four words: a digit of a named colour that first moves in a named direction, on a named
background. Everything here is a pure function of its arguments and of the random generator given.

Shapes: B scenes, F frames, H = W = 64 pixels, S = 36 pixels of a glyph's side.
"""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from video_infinity_evaluation.world.words import (
    BACKGROUNDS,
    COLOURS,
    DIGITS,
    DIRECTIONS,
    SHADING,
    SIZE,
    SPEED_RANGE,
    VOCABULARY,
    Scene,
    parse_prompt,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "DIGITS",
    "DIRECTIONS",
    "SHADING",
    "SIZE",
    "SPEED_RANGE",
    "VOCABULARY",
    "Scene",
    "parse_prompt",
]

GLYPH_SIZE = 36  # 8x8 cells of 3.6 pixels, and an empty cell around them
TRAVEL = SIZE - GLYPH_SIZE
NUM_FRAMES = 16
LONGEST = 48  # frames of the longest clips that are trained on
FPS = 8
MIN_RUN_UP = 20.0  # pixels before the first bounce: who moves left starts at the right


@cache
def real_digits() -> tuple[Tensor, Tensor]:
    """All 1,797 handwritten digits of scikit-learn as glyphs.

    Returns opacity_NSS, float32 in [0, 1], and label_N, int64 in 0 ... 9.
    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits" (1998), UCI.
    """
    digits = load_digits()
    images_N1SS = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images_N1SS = torch.nn.functional.pad(images_N1SS, (1, 1, 1, 1))
    large_N1SS = torch.nn.functional.interpolate(
        images_N1SS, size=(GLYPH_SIZE, GLYPH_SIZE), mode="bicubic", align_corners=False
    )
    opacity_NSS = ((large_N1SS[:, 0] - 0.4) / 0.3).clamp(0, 1)
    return opacity_NSS, torch.tensor(digits.target, dtype=torch.int64)


def bounce(position: Tensor, travel: float = TRAVEL) -> Tensor:
    """Fold a position on an endless line into [0, travel] by reflection at both ends."""
    folded = position.remainder(2 * travel)
    return torch.where(folded > travel, 2 * travel - folded, folded)


def corner_path(direction_B2: Tensor, start_B2: Tensor, speed_B: Tensor, num_frames: int) -> Tensor:
    """The glyph's top-left corner in every frame, in whole pixels.

    direction_B2   (rows, columns) of the first motion, from DIRECTIONS
    start_B2       float corner at frame 0, each coordinate in [0, TRAVEL]
    speed_B        pixels a frame
    Returns corner_BF2, int64 in [0, TRAVEL].
    """
    time_F = torch.arange(num_frames, dtype=torch.float32)
    moved_BF = speed_B[:, None] * time_F
    return bounce(start_B2[:, None] + direction_B2[:, None] * moved_BF[..., None]).round().long()


def render(
    opacity_BSS: Tensor, colour_B3: Tensor, background_B3: Tensor, corner_B2: Tensor
) -> Tensor:
    """Draw one frame per scene.

    opacity_BSS                glyph, 0 (background) to 1 (colour)
    colour_B3, background_B3   RGB, 0 to 255
    corner_B2                  int64 (row, column) of the glyph's top-left corner
    Returns frames_B3HW, float32 in [0, 1].
    """
    batch_B11 = torch.arange(len(corner_B2))[:, None, None]
    side_S = torch.arange(GLYPH_SIZE)
    row_BS1 = (corner_B2[:, :1] + side_S)[:, :, None]
    column_B1S = (corner_B2[:, 1:] + side_S)[:, None, :]
    alpha_BHW = torch.zeros(len(corner_B2), SIZE, SIZE)
    alpha_BHW[batch_B11, row_BS1, column_B1S] = opacity_BSS
    shade_H1 = torch.linspace(*SHADING, SIZE)[:, None]
    ground_B3HW = (background_B3[:, :, None, None] * shade_H1).expand(-1, -1, -1, SIZE)
    frames_B3HW = torch.lerp(ground_B3HW, colour_B3[:, :, None, None], alpha_BHW[:, None])
    return frames_B3HW.clamp(0, 255) / 255
