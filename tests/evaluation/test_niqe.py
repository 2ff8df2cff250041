"""NIQE: its parts against known answers and against scikit-video's own code; what it finds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import scipy
from PIL import Image
from scipy.io import loadmat

from tests.evaluation.conftest import real_frames, real_video
from video_infinity_evaluation import Backends, score
from video_infinity_evaluation.footage import Frame, open_footage
from video_infinity_evaluation.niqe import MIN_SIDE, Niqe, aggd, features, halved, mscn
from video_infinity_evaluation.scores import Measure


@cache
def bikes() -> Frame:
    """A frame far enough in that its encoder has caught up."""
    return next(islice(open_footage(real_video("bikes")), 200, None))


def bunny() -> Frame:
    frame: Frame = real_frames("bigbuckbunny", 4, 512)[0]
    return frame


REAL = {"bikes": bikes, "bunny": bunny}


def luma(frame: Frame) -> Any:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64)


def noisy(frame: Frame, levels: float) -> Frame:
    noise = np.random.default_rng(0).normal(0, levels, frame.shape)
    return np.clip(frame + noise, 0, 255).astype(np.uint8)


def blurred(frame: Frame, pixels: float) -> Frame:
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), pixels), np.uint8)


@pytest.mark.parametrize(
    ("shape", "left", "right"), [(0.6, 0.3, 0.9), (1, 0.5, 0.5), (2, 1.0, 0.4), (4, 0.2, 0.7)]
)
def test_a_fit_finds_what_samples_were_drawn_from(shape: float, left: float, right: float) -> None:
    rng = np.random.default_rng(1)
    length = rng.gamma(1 / shape, size=400_000) ** (1 / shape)
    is_left = rng.random(length.size) < left / (left + right)
    samples = np.where(is_left, -left, right) * length
    found = aggd(np.stack([samples, 3 * samples]))
    np.testing.assert_allclose(
        found, [[shape] * 2, [left, 3 * left], [right, 3 * right]], rtol=0.03
    )


def test_a_fit_of_one_side_alone_is_none() -> None:
    for samples in (np.zeros(9), np.arange(9.0), -np.arange(9.0)):
        assert np.isnan(np.stack(aggd(samples[None]))[1:]).any()


@pytest.mark.parametrize(
    ("deviation", "least", "most"), [(100, 0.75, 0.9), (10, 0.6, 0.75), (1, 0.15, 0.25)]
)
def test_coefficients_of_noise_have_a_variance_near_one(
    deviation: float, least: float, most: float
) -> None:
    """The window takes a fifth of it, and the 1 in the divisor what is near one level."""
    found = mscn(np.random.default_rng(0).normal(128, deviation, (384, 384)))
    assert abs(found.mean()) < 0.01
    assert least < found.var() < most


@pytest.mark.parametrize("level", [0, 1, 77, 255])
def test_coefficients_of_a_constant_picture_are_zero(level: int) -> None:
    assert not mscn(np.full((96, 192), float(level))).any()
    assert len(features(np.full((192, 192), float(level)))) == 0


@pytest.mark.parametrize("name", REAL)
def test_half_the_size_is_pillows_but_at_the_border(name: str) -> None:
    picture = luma(REAL[name]())[:192, :288]
    found = halved(picture)
    pillow = Image.fromarray(picture.astype(np.float32)).resize((144, 96), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found[2:-2, 2:-2], np.asarray(pillow)[2:-2, 2:-2], atol=1e-3)
    plain = cv2.resize(picture, (144, 96), interpolation=cv2.INTER_CUBIC)
    assert np.abs(found - plain).max() > 1, "without a filter against aliasing"


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """scikit-video's NIQE of Video BLIINDS, with what NumPy and SciPy no longer have: 36 means of
    features, and the distance."""

    def imresize(picture: Any, factor: float, interp: str, mode: str) -> Any:
        height, width = picture.shape
        size = (int(width * factor), int(height * factor))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))

    misc = ModuleType("scipy.misc")
    misc.imresize = imresize  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scipy.misc", misc)
    monkeypatch.setattr(scipy, "misc", misc, raising=False)
    monkeypatch.setattr(np, "int", int, raising=False)
    before = set(sys.modules)
    from skvideo.measure.videobliinds import computequality

    yield computequality
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "skvideo":
            del sys.modules[name]


@pytest.mark.parametrize("name", REAL)
def test_features_and_distance_are_those_of_scikit_video(name: str, theirs: Any) -> None:
    """Theirs has shapes on a grid of 0.001, float32, and other borders of the halved picture. It
    takes zeros for values above 0, so the frame is dithered, which leaves none."""
    frame, niqe = REAL[name](), Niqe()
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, frame.shape[:2])
    picture = luma(frame) + dither
    parameters = niqe._mean_D[None], niqe._covariance_DD
    *expected, distance = theirs(picture[..., None], 96, 96, *parameters)
    found = features(picture)
    assert found.shape == (frame.shape[0] // 96 * (frame.shape[1] // 96), 36)
    np.testing.assert_allclose(found.mean(0)[:18], expected[:18], atol=6e-4)
    np.testing.assert_allclose(found.mean(0)[18:], expected[18:], atol=3e-3)
    assert niqe.distance(found) == pytest.approx(distance, rel=0.01)


@pytest.mark.parametrize("name", REAL)
def test_blur_and_noise_raise_it(name: str, backends: Backends) -> None:
    niqe, frame = backends.imaging, REAL[name]()
    assert niqe is not None
    clean = niqe(frame)
    assert clean is not None and 3 < clean < 7
    for spoil, amounts in ((blurred, (1, 2, 4)), (noisy, (8, 16, 32))):
        found = [niqe(spoil(frame, amount)) for amount in amounts]
        assert [clean, *found] == sorted([clean, *found])
        assert found[-1] > 2 * clean, found


def test_values_are_those_that_the_documentation_tells(backends: Backends) -> None:
    niqe = backends.imaging
    assert niqe is not None
    whole = next(islice(open_footage(real_video("bigbuckbunny")), 30, None))
    frame = np.asarray(cv2.resize(whole, (512, 288), interpolation=cv2.INTER_AREA), np.uint8)
    spoilt = (blurred(frame, 1), blurred(frame, 3), noisy(frame, 8), noisy(frame, 25))
    found = [niqe(picture) for picture in (frame, *spoilt)]
    assert found == pytest.approx([4.0, 8.3, 17.7, 7.2, 14.6], abs=0.06)


def test_by_the_other_parameters_a_blurred_frame_is_the_better_one() -> None:
    """Why they are not used."""
    data = real_video("bikes").parents[2] / "measure" / "data"
    found, niqe = loadmat(data / "niqe_image_params.mat"), Niqe()
    niqe._mean_D, niqe._covariance_DD = np.ravel(found["pop_mu"]), found["pop_cov"]
    sharp, soft = niqe(bikes()), niqe(blurred(bikes(), 1))
    assert sharp is not None and soft is not None and soft < 0.9 * sharp


def test_flat_patches_are_left_out() -> None:
    """A caption in a black frame: what is black adds nothing."""
    frame, niqe = bunny()[:192], Niqe()
    wide = np.zeros((384, 512, 3), np.uint8)
    wide[:192] = frame
    wide[288:] = 40
    whole, framed = features(luma(frame)), features(luma(wide))
    assert len(whole) == len(framed) == 10
    np.testing.assert_allclose(framed[:5], whole[:5], atol=1e-9)
    assert niqe(wide) is not None and niqe(np.zeros((384, 512, 3), np.uint8)) is None


def imaging_of(video: Any, backends: Backends) -> Measure:
    (found,) = (m for m in score(video, backends=backends).measures if m.name == "imaging_quality")
    return found


def test_it_is_told_as_lower_is_better(backends: Backends) -> None:
    video = real_frames("bigbuckbunny", 4, 512)[:, :MIN_SIDE, :MIN_SIDE]
    found = imaging_of(video, backends)
    assert backends.imaging is not None
    values = [backends.imaging(frame) for frame in video]
    assert found.value == pytest.approx(np.mean([value for value in values if value is not None]))
    assert (found.good, found.note) == ("low", "")
    assert found.by == "NIQE, lower is better, not comparable"


@pytest.mark.parametrize("size", [(64, 64), (MIN_SIDE - 1, 400), (400, MIN_SIDE - 1)])
def test_a_video_that_is_too_small_has_no_value(
    size: tuple[int, int], backends: Backends, tmp_path: Path
) -> None:
    for index, frame in enumerate(real_frames("bigbuckbunny", 4, 512)[:3]):
        Image.fromarray(frame).resize(size).save(tmp_path / f"{index}.png")
    found = imaging_of(tmp_path, backends)
    assert found.value is None
    assert found.note.startswith(f"NIQE needs frames of {MIN_SIDE} pixels a side or more; MUSIQ")


def test_what_has_no_value_for_another_reason_says_which(backends: Backends) -> None:
    flat = imaging_of(np.zeros((3, MIN_SIDE, MIN_SIDE, 3), np.uint8), backends)
    assert flat.value is None and flat.note.startswith("NIQE needs two patches")
    bare = Backends(backends.subject, backends.flow)
    none = imaging_of(np.zeros((3, 32, 32, 3), np.uint8), bare)
    assert none.value is None and none.note == "MUSIQ runs in --vbench-env alone"
