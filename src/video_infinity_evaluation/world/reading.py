"""Reads digit, colour, background and place out of a frame, knowing only the real world.

Colours and places come from the pixels by formula. The digit comes from a small classifier that
has seen real renderings only, never a generated frame; `training/judge.py` of the repository
trained it.

Shapes: B frames, H = W = 64 pixels, P = 48 pixels of a patch around the digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from video_infinity_evaluation.world import words

CLASSIFIER = Path(__file__).with_name("judge.safetensors")
PATCH_SIZE = 48
MIN_CONTRAST = 0.15  # of the full range; fainter pixels belong to the background
MIN_AREA = 30  # pixels; with fewer there is no digit


@dataclass(frozen=True)
class Reading:
    """What is seen in B frames.

    colour_B, background_B   indices into the world's tables; colour -1 where there is no digit
    centre_B2                (row, column) of the digit in pixels, or the picture's middle
    patch_BPP                the digit's opacity around its centre, or zeros
    """

    colour: Tensor
    background: Tensor
    centre: Tensor
    patch: Tensor


def nearest(rgb_B3: Tensor, table: dict[str, tuple[int, int, int]]) -> Tensor:
    """Index of the named colour of least Euclidean distance, for RGB in [0, 1]."""
    return torch.cdist(rgb_B3, torch.tensor(list(table.values())).float() / 255).argmin(1)


def read(frames_B3HW: Tensor) -> Reading:
    """Measure frames in [0, 1].

    The background is the median over all pixels after the shading is divided out (the digit covers
    less than half the picture); the digit is what differs from it; its colour is the median over
    those pixels that differ by at least 0.8 of the 20th largest difference.
    """
    shade_H1 = torch.linspace(*words.SHADING, words.SIZE)[:, None]
    ground_B3 = (frames_B3HW / shade_H1).flatten(2).median(2).values
    contrast_BHW = (frames_B3HW - ground_B3[:, :, None, None] * shade_H1).norm(dim=1)
    inside_BHW = contrast_BHW > MIN_CONTRAST
    strong_B = contrast_BHW.flatten(1).topk(20).values[:, -1]
    core_BHW = contrast_BHW >= 0.8 * strong_B[:, None, None]
    pixels_B3HW = frames_B3HW.masked_fill(~core_BHW[:, None], torch.nan)
    colour_B3 = pixels_B3HW.flatten(2).nanmedian(2).values
    alpha_BHW = torch.where(inside_BHW, contrast_BHW / strong_B[:, None, None], 0.0).clamp(max=1)
    present_B = inside_BHW.flatten(1).sum(1) >= MIN_AREA
    alpha_BHW = alpha_BHW * present_B[:, None, None]
    place_H = torch.arange(words.SIZE).float()
    mass_B = alpha_BHW.sum((1, 2)).clamp(min=1e-6)
    row_B = (alpha_BHW.sum(2) * place_H).sum(1) / mass_B
    column_B = (alpha_BHW.sum(1) * place_H).sum(1) / mass_B
    middle = (words.SIZE - 1) / 2
    centre_B2 = torch.stack([row_B, column_B], 1)
    centre_B2 = torch.where(present_B[:, None], centre_B2, middle)
    return Reading(
        torch.where(present_B, nearest(colour_B3, words.COLOURS), -1),
        nearest(ground_B3, words.BACKGROUNDS),
        centre_B2,
        patches(alpha_BHW, centre_B2),
    )


def patches(alpha_BHW: Tensor, centre_B2: Tensor) -> Tensor:
    """Cut squares of PATCH_SIZE around centres, with zeros beyond the picture."""
    half = PATCH_SIZE // 2
    padded_BHW = functional.pad(alpha_BHW, (half, half, half, half))
    corner_B2 = centre_B2.round().long()
    side_P = torch.arange(PATCH_SIZE)
    row_BP1 = (corner_B2[:, :1] + side_P)[:, :, None]
    column_B1P = (corner_B2[:, 1:] + side_P)[:, None, :]
    return padded_BHW[torch.arange(len(alpha_BHW))[:, None, None], row_BP1, column_B1P]


def build_classifier() -> nn.Sequential:
    """Ten logits from a patch [B, 1, P, P]."""
    return nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(1, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(48 * 36, 96), nn.ReLU(), nn.Linear(96, 10),
    )  # fmt: skip


@cache
def load_classifier() -> nn.Sequential:
    """The classifier whose weights lie in the package, ready to read."""
    classifier = build_classifier()
    weights = load_file(CLASSIFIER)
    classifier.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return classifier.eval()


@torch.no_grad()
def read_digits(patch_BPP: Tensor, classifier: nn.Module | None = None) -> Tensor:
    """The digit in each patch, 0 ... 9."""
    logits_BN: Tensor = (classifier or load_classifier())(patch_BPP[:, None])
    return logits_BN.argmax(1)
