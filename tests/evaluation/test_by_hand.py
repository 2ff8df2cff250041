"""Measures of small pictures whose values are worked out here, by the published formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.evaluation.conftest import Mean
from video_infinity_evaluation import Backends, score

SIDE, DARK = 32, 50


class SquareFlow:
    """The flow of what is brighter than DARK and keeps its shape, wherever it was and is."""

    label = "known"

    def __call__(self, first_HW: Any, second_HW: Any) -> Any:
        flow_HW2 = np.zeros((*first_HW.shape, 2), np.float32)
        was, now = (np.argwhere(gray_HW > DARK) for gray_HW in (first_HW, second_HW))
        if len(was):
            flow_HW2[first_HW > DARK] = (now[0] - was[0])[::-1]
        return flow_HW2


BACKENDS = Backends(Mean(), SquareFlow(), Mean())


def value(frames: Sequence[Any], name: str) -> float:
    found = score(np.stack(frames), backends=BACKENDS)[name]
    assert found is not None
    return found


def gray(picture_HW: Any) -> Any:
    return np.repeat(picture_HW[..., None], 3, axis=2).astype(np.uint8)


def halves(left: Any, right: Any) -> Any:
    """A picture of two colours."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[:, : SIDE // 2], picture[:, SIDE // 2 :] = left, right
    return picture


def test_colourfulness_of_two_colours() -> None:
    """Red - green is 160 and -100, mean 30 and deviation 130; (red + green) / 2 - blue is 60 and
    -20, mean 20 and deviation 40. Gray has none."""
    coloured, plain = halves((200, 40, 60), (20, 120, 90)), halves(90, 30)
    expected = (130**2 + 40**2) ** 0.5 + 0.3 * (30**2 + 20**2) ** 0.5
    assert value([coloured] * 3, "colourfulness") == pytest.approx(expected, abs=1e-3)
    mixed = value([coloured, plain, plain, plain], "colourfulness")
    assert mixed == pytest.approx(expected / 4, abs=1e-3), "the mean over frames"


def points(height: int) -> Any:
    """Four points that stand out of a ground: the Laplacian is -4 and, at 4 neighbours, 1 times
    `height`, so its mean square is 4 * 20 * height ** 2 over all pixels."""
    picture = np.full((SIDE, SIDE), 20)
    picture[8:24:10, 8:24:10] += height
    return gray(picture)


def rms(height: int) -> float:
    return float((4 * 20 * height**2) ** 0.5 / SIDE)


def test_sharpness_is_the_root_mean_square_of_the_laplacian() -> None:
    assert value([points(20)] * 3, "sharpness") == pytest.approx(rms(20), abs=1e-5)
    mixed = value([points(20), points(20), points(8)], "sharpness")
    assert mixed == pytest.approx((2 * rms(20) + rms(8)) / 3, abs=1e-5), "the mean over frames"


def test_sharpness_change_is_of_the_last_frames_against_the_first() -> None:
    """Of 16 each: two pictures, eight times."""
    frames = [points(height) for height in (8, 12, 20, 20, 6, 9) for _ in range(8)]
    assert value(frames, "sharpness_change") == pytest.approx(7.5 / 10 - 1, abs=1e-5)


def lightness(level: float) -> float:
    """L* of a gray of sRGB, of at least 0.04 of full, by IEC 61966-2-1 and CIE 15."""
    return float(116 * ((level / 255 + 0.055) / 1.055) ** 0.8 - 16)


def test_contrast_change_is_of_the_deviations_of_lightness() -> None:
    """Of halves that is half the difference; OpenCV's table of L* is off by up to 0.2."""
    levels = ((255, 119), (255, 119), (200, 40), (200, 40), (180, 90), (140, 60))
    frames = [halves(left, right) for left, right in levels for _ in range(8)]
    first, _, last = (
        sum(lightness(left) - lightness(right) for left, right in levels[k : k + 2])
        for k in (0, 2, 4)
    )
    assert lightness(119) == pytest.approx(50, abs=0.05), "middle gray"
    found = value(frames, "contrast_change")
    assert found == pytest.approx(last / first - 1, abs=2e-3)


def square(column: int, level: int) -> Any:
    picture = np.full((SIDE, SIDE), DARK)
    picture[12:20, column : column + 8] = level
    return gray(picture)


def test_warping_error_is_the_mean_square_over_what_both_frames_show() -> None:
    """A square of 64 pixels goes 4 to the right and grows brighter by 20, then 10 levels. It hides
    8 x 4 pixels of the ground, of which no flow tells, and shows others, which no frame before
    has."""
    frames = [square(8, 200), square(12, 220), square(16, 230)]
    expected = (20**2 + 10**2) / 2 / 255**2 * 64 / (SIDE**2 - 32)
    assert value(frames, "warping_error") == pytest.approx(expected, rel=1e-5)
