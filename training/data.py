"""Random scenes of the world as training batches.

Shapes: N clips, F frames, S a glyph's side, H = W = 64 pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from training import world
from training.world import Scene

# Clear examples of each digit, by their number in scikit-learn's set: near the centres of clusters
# of the images that a support vector machine is sure of, then chosen by eye.
EXEMPLARS = {
    "zero": (1677, 1545, 396),
    "one": (1634, 1168, 1386),
    "two": (181, 1159, 310),
    "three": (339, 345, 1240),
    "four": (1387, 1512, 1536),
    "five": (938, 117, 1312),
    "six": (1005, 1222, 620),
    "seven": (983, 533, 173),
    "eight": (943, 1026, 370),
    "nine": (455, 1507, 944),
}

SCENES = tuple(
    Scene(*words)
    for words in itertools.product(world.DIGITS, world.COLOURS, world.DIRECTIONS, world.BACKGROUNDS)
)
_COLOUR_RGB = torch.tensor([world.COLOURS[scene.colour] for scene in SCENES]).float()
_BACKGROUND_RGB = torch.tensor([world.BACKGROUNDS[scene.background] for scene in SCENES]).float()
_DIRECTION = torch.tensor([world.DIRECTIONS[scene.direction] for scene in SCENES])
_DIGIT = torch.tensor([world.DIGITS.index(scene.digit) for scene in SCENES])


@dataclass(frozen=True)
class Clips:
    """scene_N: indices into SCENES; corner_NF2: the glyph's corner; opacity_NSS: its glyph."""

    scene: Tensor
    corner: Tensor
    opacity: Tensor

    def frames(self, frame_K: Tensor, clip_K: Tensor) -> Tensor:
        """Draw frame `frame_K` of clip `clip_K`: float32 [K, 3, H, W] in [0, 1]."""
        scene_K = self.scene[clip_K]
        return world.render(
            self.opacity[clip_K],
            _COLOUR_RGB[scene_K],
            _BACKGROUND_RGB[scene_K],
            self.corner[clip_K, frame_K],
        )


def exemplar_glyphs() -> tuple[Tensor, Tensor]:
    """opacity_ESS of all EXEMPLARS and their label_E."""
    opacity_NSS, label_N = world.real_digits()
    index_E = torch.tensor([i for word in world.DIGITS for i in EXEMPLARS[word]])
    return opacity_NSS[index_E], label_N[index_E]


def split_glyphs(held_out: bool) -> tuple[Tensor, Tensor]:
    """The real digits kept from all training (every sixth that is no exemplar), or the rest."""
    opacity_NSS, label_N = world.real_digits()
    exemplars = {i for indices in EXEMPLARS.values() for i in indices}
    kept = [i % 6 == 5 and i not in exemplars for i in range(len(label_N))]
    chosen_N = torch.tensor(kept) == held_out
    return opacity_NSS[chosen_N], label_N[chosen_N]


def draw_clips(
    generator: torch.Generator,
    num_clips: int,
    num_frames: int,
    glyphs: tuple[Tensor, Tensor],
    scene_N: Tensor | None = None,
) -> Clips:
    """Draw scenes (unless given), glyphs, starts and speeds, all uniform and independent.

    The start leaves at least MIN_RUN_UP pixels before the first bounce.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    opacity_ESS, label_E = glyphs
    if scene_N is None:
        scene_N = torch.randint(len(SCENES), (num_clips,), generator=generator)
    has_label_NE = label_E == _DIGIT[scene_N, None]
    glyph_N = torch.multinomial(has_label_NE.float(), 1, generator=generator)[:, 0]
    direction_N2 = _DIRECTION[scene_N]
    run_up_N2 = uniform(world.MIN_RUN_UP, world.TRAVEL, num_clips, 2)
    across_N2 = uniform(0, world.TRAVEL, num_clips, 2)
    start_N2 = torch.where(direction_N2 < 0, run_up_N2, world.TRAVEL - run_up_N2)
    start_N2 = torch.where(direction_N2 == 0, across_N2, start_N2)
    corner_NF2 = world.corner_path(
        direction_N2, start_N2, uniform(*world.SPEED_RANGE, num_clips), num_frames
    )
    return Clips(scene_N, corner_NF2, opacity_ESS[glyph_N])
