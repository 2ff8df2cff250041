"""Windows cover the timeline; FreeNoise's noise is the first window's, shuffled."""

from __future__ import annotations

import itertools

import pytest
import torch

from video_infinity.noise import initial_noise, shuffled_frames
from video_infinity.plan import Clip, contributions, split_spans, split_timeline
from video_infinity.windows import Windows, even_spans, pyramid_weight


@pytest.mark.parametrize("length", [1, 3, 8, 9, 10, 23, 64])
@pytest.mark.parametrize(("window", "stride"), [(8, 2), (8, 8), (7, 3), (1, 1), (16, 4)])
def test_windows_cover_every_frame_and_end_where_the_video_ends(
    window: int, stride: int, length: int
) -> None:
    spans = Windows(window, stride).spans(length)
    assert {frame for span in spans for frame in span} == set(range(length))
    assert all(len(span) == min(window, length) for span in spans)
    starts = [span.start for span in spans]
    assert starts == sorted(set(starts))
    assert all(b - a == stride for a, b in itertools.pairwise(starts[:-1]))
    assert spans[-1].stop == length and starts[-1] - starts[max(0, len(starts) - 2)] <= stride


def test_the_tail_has_a_window_of_its_own() -> None:
    assert [(s.start, s.stop) for s in Windows(16, 4).spans(22)] == [(0, 16), (4, 20), (6, 22)]


@pytest.mark.parametrize("length", [1, 8, 9, 10, 23, 33, 64])
@pytest.mark.parametrize(("window", "stride"), [(8, 2), (8, 8), (7, 3), (1, 1), (13, 7)])
def test_windows_are_spread_evenly_where_strides_do_not_end_with_the_video(
    window: int, stride: int, length: int
) -> None:
    spans = Windows(window, stride).spans(length)
    spread = Windows(window, stride).spread(length)
    assert (spread[0], spread[-1], len(spread)) == (spans[0], spans[-1], len(spans))
    apart = [b.start - a.start for a, b in itertools.pairwise(spread)]
    assert max(apart, default=stride) <= stride, "no fewer frames in common than was asked for"
    assert not apart or max(apart) - min(apart) <= 1
    if spans[-1].start % stride == 0:
        assert spread == spans


def test_windows_over_some_frames() -> None:
    assert Windows(4, 2).over(range(5, 6), 12) == (range(2, 6), range(4, 8))


@pytest.mark.parametrize("window", [1, 2, 5, 16])
def test_pyramid_weights_rise_and_fall(window: int) -> None:
    weights = [pyramid_weight(place, window) for place in range(window)]
    assert weights == weights[::-1] and max(weights) == (window + 1) // 2 and min(weights) == 1
    half = weights[: (window + 1) // 2]
    assert half == list(range(1, len(half) + 1))


@pytest.mark.parametrize(("length", "most"), [(1, 4), (4, 4), (5, 4), (13, 5), (128, 16)])
def test_even_spans_are_few_and_alike(length: int, most: int) -> None:
    spans = even_spans(length, most)
    lengths = [len(span) for span in spans]
    assert sum(lengths) == length and max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1 and len(spans) == -(-length // most)


def test_whole_spans_go_to_ranks_where_there_are_enough() -> None:
    spans = even_spans(13, 5)
    assert split_spans(spans, 2) == (Clip(0, 4), Clip(4, 13))
    assert split_spans(spans, 5) == split_timeline(13, 5)


def test_contributions_come_from_all_that_hold_a_frame_but_oneself() -> None:
    clips = (Clip(0, 3), Clip(3, 6))
    found = contributions([range(5), range(2, 6)], clips)
    assert {(t.source, t.target, t.frames) for t in found} == {(0, 1, (3, 4)), (1, 0, (2,))}


# FreeNoise's noise


@pytest.mark.parametrize(("window", "stride"), [(16, 4), (6, 3), (5, 5), (4, 1)])
def test_every_window_of_the_shuffled_noise_is_a_permutation_of_the_first(
    window: int, stride: int
) -> None:
    source = shuffled_frames(7, 10 * window + 1, window, stride)
    assert source[:window] == list(range(window))
    for start in range(0, len(source) - window, stride):
        assert sorted(source[start : start + window]) == list(range(window))
    blocks = range(window, len(source) - stride, stride)
    for start in blocks:
        before = source[start - window : start - window + stride]
        assert sorted(source[start : start + stride]) == sorted(before)
    if stride > 2:
        copied = [
            source[b : b + stride] == source[b - window : b - window + stride] for b in blocks
        ]
        assert not all(copied), "nothing is shuffled"


def test_a_window_that_is_no_multiple_of_the_stride() -> None:
    source = shuffled_frames(0, 50, 7, 3)
    assert len(source) == 50 and set(source) == set(range(7))
    for start in range(7, 48, 3):
        assert sorted(source[start : start + 3]) == sorted(source[start - 7 : start - 4])


def test_a_longer_video_begins_as_a_shorter_and_seeds_differ() -> None:
    long = shuffled_frames(3, 100, 16, 4)
    assert all(shuffled_frames(3, n, 16, 4) == long[:n] for n in (1, 16, 18, 77))
    assert shuffled_frames(4, 100, 16, 4) != long


def test_the_noise_of_a_frame_is_that_of_its_source() -> None:
    source = shuffled_frames(3, 30, 8, 2)
    noise = initial_noise(3, source, (2, 3, 3))
    for frame, of in enumerate(source):
        assert torch.equal(noise[:, :, frame], noise[:, :, of])
