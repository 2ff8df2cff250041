"""The world of the embedded model: handwritten digits that move and bounce.

A scene is four words: a digit of a named colour that first moves in a named direction, on a named
background. Everything here is a pure function of its arguments and of the random generator given.

Shapes: B scenes, F frames, H = W = 64 pixels, S = 36 pixels of a glyph's side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

SIZE = 64
GLYPH_SIZE = 36  # 8x8 cells of 3.6 pixels, and an empty cell around them
TRAVEL = SIZE - GLYPH_SIZE
NUM_FRAMES = 16
FPS = 8
SPEED_RANGE = (2.0, 3.0)  # pixels a frame
MIN_RUN_UP = 20.0  # pixels before the first bounce: who moves left starts at the right

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 240),
    "yellow": (240, 220, 50),
    "white": (245, 245, 245),
    "purple": (180, 60, 220),
}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (rows, columns)
BACKGROUNDS = {
    "black": (10, 10, 10),
    "navy": (20, 25, 70),
    "maroon": (80, 20, 25),
    "forest": (20, 60, 35),
    "gray": (95, 95, 95),
}
SHADING = (0.7, 1.3)  # the background's factor at the top and at the bottom
VOCABULARY = (
    *("a", "moving", "on", "background"),
    *DIGITS,
    *COLOURS,
    *DIRECTIONS,
    *BACKGROUNDS,
)


@dataclass(frozen=True)
class Scene:
    """The four words that a prompt states."""

    digit: str
    colour: str
    direction: str
    background: str

    def prompt(self) -> str:
        """The sentence of this scene, which `parse_prompt` reads back."""
        subject = f"a {self.colour} {self.digit} moving {self.direction}"
        return f"{subject} on a {self.background} background"


def parse_prompt(prompt: str) -> Scene:
    """The scene that a prompt of the world's grammar states.

    Raises ValueError if the prompt is not a sentence of the grammar.
    """
    words = prompt.split()
    if len(words) == 9:
        scene = Scene(words[2], words[1], words[4], words[7])
        known = (
            scene.digit in DIGITS
            and scene.colour in COLOURS
            and scene.direction in DIRECTIONS
            and scene.background in BACKGROUNDS
        )
        if known and scene.prompt() == prompt:
            return scene
    raise ValueError(f"prompt {prompt!r} is not of the form {Scene('D', 'C', 'M', 'B').prompt()!r}")


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
