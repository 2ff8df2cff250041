"""VBench's formulas, written out once more frame by frame as its package has them; flow; length."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest

from tests.evaluation.conftest import real_frames
from video_infinity_evaluation import EvaluationError, flow, length, vbench


def random_features(count: int = 12, size: int = 5) -> Any:
    return np.random.default_rng(1).normal(0.3, 1, (count, size)).astype(np.float32)


def consistency_as_vbench(features: Any) -> float:
    """The loop of `vbench.subject_consistency`, on one video."""
    total = 0.0
    for i in range(1, len(features)):
        total += (max(0.0, cosine(features[i - 1], features[i]))) / 2
        total += (max(0.0, cosine(features[0], features[i]))) / 2
    return total / (len(features) - 1)


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_consistency_is_that_of_the_loop() -> None:
    features = random_features()
    expected = consistency_as_vbench(features)
    assert vbench.consistency(features) == pytest.approx(expected, abs=1e-6)
    parts = vbench.consistency_parts(features)
    assert (parts == 0).any(), "a case in which the cut at 0 matters"
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    uncut = ((unit[1:] * unit[:-1]).sum(1) + unit[1:] @ unit[0]).mean() / 2
    assert abs(uncut - expected) > 1e-2, "without the cut at 0"
    assert abs(parts[:, 0].mean() - expected) > 1e-2, "neighbours alone"
    assert abs(parts.mean() * 11 / 12 - expected) > 1e-2, "divided by the frames, not the pairs"


def test_flickering_is_that_of_the_loop_and_not_of_luma() -> None:
    video = real_frames("carphone_pristine", 10, 88)
    pairs = list(itertools.pairwise(video))
    expected = (255.0 - np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs])) / 255.0
    found = vbench.flickering([float(cv2.absdiff(a, b).mean()) for a, b in pairs])
    assert found == pytest.approx(expected, abs=1e-9)
    wrapped = (255.0 - np.mean([(a - b).mean() for a, b in pairs])) / 255.0
    assert abs(wrapped - expected) > 1e-2, "differences of uint8 wrap around"


@pytest.mark.parametrize(
    ("motion", "side", "dynamic"),
    [
        ([6.1] * 4 + [0.0] * 11, 256, True),  # 16 frames want 4
        ([6.1] * 3 + [0.0] * 12, 256, False),
        ([5.9] * 15, 256, False),
        ([5.9] * 15, 240, True),  # the threshold is 6 at 256
        ([0.0], 256, True),  # round(4 * 2 / 16) is 0: VBench's own quirk
        ([], 256, False),
        ([9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 256, True),  # round(2.5) is 2
    ],
)
def test_dynamic_degree(motion: list[float], side: int, dynamic: bool) -> None:
    assert vbench.is_dynamic(motion, side) is dynamic


def test_dynamic_degree_samples_at_eight_a_second() -> None:
    assert [vbench.sampled_every(fps) for fps in (4, 8, 11, 13, 24, 30, 60)] == [
        1,
        1,
        1,
        2,
        3,
        4,
        8,
    ]


def test_top_motion_is_the_mean_of_the_longest_five_percent() -> None:
    field = np.random.default_rng(0).normal(0, 3, (20, 30, 2)).astype(np.float32)
    lengths = np.sort(-np.sqrt(np.square(field[..., 0]) + np.square(field[..., 1])).ravel())
    expected = np.mean(abs(lengths[: int(20 * 30 * 0.05)]))  # as VBench writes it
    assert flow.top_motion(field) == pytest.approx(float(expected), rel=1e-6)


def moved(pixels: int) -> tuple[Any, Any, Any]:
    """A picture, the same moved right by half of `pixels`, and by all of them."""
    picture = real_frames("bigbuckbunny", 1, 320)[0]
    frames = [picture[20:148, 100 - k : 260 - k].copy() for k in (0, pixels // 2, pixels)]
    return frames[0], frames[1], frames[2]


def test_flow_and_what_follows_from_it() -> None:
    before, half_way, after = moved(8)
    search = flow.DisFlow()
    gray = [flow.gray_of(frame) for frame in (before, after)]
    forward, backward = search(gray[0], gray[1]), search(gray[1], gray[0])
    assert np.median(forward, axis=(0, 1)) == pytest.approx([8, 0], abs=0.1)
    unexplained = flow.residual(gray[0], gray[1], forward)
    still = np.abs(gray[0].astype(float) - gray[1]).mean() / 255
    assert unexplained.mean() < 0.15 * still
    wrong_way = flow.residual(gray[0], gray[1], -forward)
    assert wrong_way.mean() > still, "moved the wrong way"
    seen = flow.visible(forward, backward)
    assert seen[:, 8:-16].mean() > 0.9
    assert not seen[:, -7:].any(), "it left the picture"
    guessed = flow.in_between(before, after, forward)
    mean = ((before.astype(float) + after) / 2).astype(np.uint8)
    inner = (slice(None), slice(12, -12))
    error = cv2.absdiff(guessed[inner], half_way[inner]).mean()
    assert error < 0.2 * cv2.absdiff(mean[inner], half_way[inner]).mean(), "the mean does not move"


def test_flow_is_scaled_to_the_frame() -> None:
    small = np.full((4, 8, 2), 1.0, np.float32)
    large = flow.at_size(small, 8, 32)
    assert large.shape == (8, 32, 2)
    assert np.unique(large[..., 0]) == pytest.approx([4])
    assert np.unique(large[..., 1]) == pytest.approx([2])


def test_small_frames_have_no_flow() -> None:
    tiny = np.zeros((8, 40), np.uint8)
    with pytest.raises(EvaluationError, match="40x8 are too small"):
        flow.DisFlow()(tiny, tiny)


def test_seam_ratio_is_of_the_means_and_reads_the_pair_before_a_border() -> None:
    values = np.ones(15)
    values[[3, 7]] = 5
    assert length.seam_ratio(values, (4, 8)) == 5
    assert length.seam_ratio(values, (5, 9)) == pytest.approx(1 / (21 / 13)), "one pair too late"
    assert length.seam_ratio(values, ()) is None
    assert length.seam_ratio(np.zeros(15), (4,)) == 1
    only_seams = np.zeros(15)
    only_seams[3] = 1
    assert length.seam_ratio(only_seams, (4,)) is None


@pytest.mark.parametrize("borders", [(0,), (16,), (-1,)])
def test_borders_lie_inside(borders: tuple[int, ...]) -> None:
    with pytest.raises(EvaluationError, match="1 to 15"):
        length.check_borders(borders, 16)


def test_borders_are_sorted_and_none_counts_twice() -> None:
    assert length.check_borders([8, 4, 8], 16) == (4, 8)


def test_autocorrelation_is_that_of_all_pairs() -> None:
    features = random_features(17, 70)
    centred = features - features.mean(0)
    for lag, value in enumerate(length.autocorrelation(features)):
        head, tail = centred[: 17 - lag], centred[lag:]
        norm = np.sqrt((head**2).sum() * (tail**2).sum())
        assert value == pytest.approx((head * tail).sum() / norm, abs=1e-5)


@pytest.mark.parametrize("period", [5, 9, 16])
def test_loop_finds_the_period_and_not_a_multiple(period: int) -> None:
    walk = np.random.default_rng(3).normal(0, 1, (period, 8))
    score, lag = length.loop(np.tile(walk, (6, 1)))
    assert score == pytest.approx(1) and lag == period


def test_what_goes_on_and_on_is_no_loop() -> None:
    line = np.linspace(0, 1, 40)[:, None] * np.ones(3)
    assert length.loop(line) == (0.0, 0)
    assert length.loop(np.ones((20, 3))) == (0.0, 0)


def test_drift_is_from_the_first_window_and_the_last_window_is_whole() -> None:
    values = np.concatenate([np.zeros(4), np.full(4, 9.0), np.full(5, 2.0)])[:, None]
    assert length.drift(values, 4) == (2.0, 9.0)
    assert length.window_means(values, 4)[:, 0].tolist() == [0, 9, 2, 2]
    assert length.drift(values[:10], 4) == ((2 * 9 + 2 * 2) / 4, 9.0), "the last ones overlap"
    assert length.drift(values[:7], 4) is None, "shorter than two windows"
    assert length.turn(np.ones((7, 2)), 4) is None
    same = np.array([[1.0, 0.0]] * 4 + [[3.0, 0.0]] * 4)
    assert length.turn(same, 4) == (0.0, 0.0), "brighter features of the same direction"
    assert length.turn(same[:, ::-1] * [[1, 1]] + [0, 0], 4) == (0.0, 0.0)
    other = np.array([[1.0, 0.0]] * 4 + [[0.0, 3.0]] * 4)
    assert length.turn(other, 4) == (1.0, 1.0)
