"""Measures of a whole video: seams, jumps, drift from its first frames, loops. Pure.

A mean hides a seam: jumps every six frames of a real video move the mean of consistency from 0.912
to 0.905. So what happens at the borders of clips stands over what happens elsewhere.

F frames, P = F - 1 pairs of neighbours (pair p is frames p and p + 1), D features.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from video_infinity_evaluation.errors import EvaluationError

Values = Sequence[float] | npt.NDArray[np.floating]
FIRST_FRAMES = 16
"""What later frames are held against: as many as VideoCrafter2 and `demo` were trained on, and the
same whatever the borders are, so that videos by different methods are held against as much."""
TINY = 1e-9
NEARLY = 0.95
"""A peak this close to the highest is as good: a loop's lag is its period, not a multiple."""


def check_borders(borders: Collection[int], num_frames: int) -> tuple[int, ...]:
    """Borders in order, none twice. border  the first frame of a clip, so from 1 to F - 1.

    Raises EvaluationError for a border outside the video.
    """
    for border in borders:
        if not 0 < border < num_frames:
            raise EvaluationError(
                f"a clip cannot begin at frame {border} of {num_frames}; borders are from 1 to "
                f"{num_frames - 1}"
            )
    return tuple(sorted(set(borders)))


def seam_ratio(values_P: Values, borders: Collection[int]) -> float | None:
    """Mean over the pairs at borders divided by the mean over all other pairs.

    values_P  a difference of neighbours: of pixels, of what motion leaves over, of features
    Returns 1 where borders are like any other place, and well above at seams; 1 where nothing
    changes anywhere; None without borders, without other pairs, or if those do not change at all.
    """
    values_P = np.asarray(values_P, np.float64)
    at_border_P = np.zeros(len(values_P), bool)
    at_border_P[[border - 1 for border in borders]] = True
    if not at_border_P.any() or at_border_P.all():
        return None
    at, elsewhere = values_P[at_border_P].mean(), values_P[~at_border_P].mean()
    if elsewhere < TINY:
        return 1.0 if at < TINY else None
    return float(at / elsewhere)


def largest_jump(values_P: Values) -> float | None:
    """The largest difference of neighbours over their median: a cut, wherever it is.

    None if more than half of the pairs do not change.
    """
    values_P = np.asarray(values_P, np.float64)
    median = np.median(values_P)
    return float(values_P.max() / median) if median > TINY else None


def drift(values_FD: npt.NDArray[np.floating], window: int) -> tuple[float, float] | None:
    """Euclidean distance from the mean over the first `window` frames.

    Returns that of the last `window` frames' mean, and the largest of all windows; None if the
    video is shorter than two windows.
    """
    if len(values_FD) < 2 * window:
        return None
    means_KD = window_means(values_FD, window)
    distance_K = np.linalg.norm(means_KD[1:] - means_KD[0], axis=1)
    return float(distance_K[-1]), float(distance_K.max())


def turn(features_FD: npt.NDArray[np.floating], window: int) -> tuple[float, float] | None:
    """1 - cosine with the first window's mean feature: of the last window, and the largest.

    None if the video is shorter than two windows.
    """
    if len(features_FD) < 2 * window:
        return None
    means_KD = window_means(features_FD, window)
    unit_KD = means_KD / np.maximum(np.linalg.norm(means_KD, axis=1, keepdims=True), TINY)
    distance_K = np.maximum(1 - unit_KD[1:] @ unit_KD[0], 0.0)
    return float(distance_K[-1]), float(distance_K.max())


def window_means(values_FD: npt.NDArray[np.floating], window: int) -> npt.NDArray[np.float64]:
    """Means over frames [0, window), [window, 2 window), ... and over the last `window` frames."""
    whole = len(values_FD) // window
    if not whole:
        return np.empty((0, *values_FD.shape[1:]))
    starts = [k * window for k in range(whole)]
    if len(values_FD) % window:
        starts.append(len(values_FD) - window)
    means = [values_FD[start : start + window].mean(0, dtype=np.float64) for start in starts]
    return np.stack(means)


def autocorrelation(features_FD: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """How alike frames are that lie `lag` apart, lags 0 ... F // 2, in [-1, 1].

    What all frames share is taken off first. For each lag the sum of products is divided by the
    energies of the two parts that overlap, so that a long lag is no smaller for having few pairs.
    F log F operations, by the Fourier transform.
    """
    num_frames = len(features_FD)
    size, lags = 2 * num_frames, num_frames // 2 + 1
    product_L, energy_F = np.zeros(lags), np.zeros(num_frames)
    for column in range(0, features_FD.shape[1], 64):  # a few at a time, for memory
        part_FD = np.asarray(features_FD[:, column : column + 64], np.float64)
        part_FD = part_FD - part_FD.mean(0)
        spectrum = np.fft.rfft(part_FD, size, axis=0)
        product_L += np.fft.irfft((np.abs(spectrum) ** 2).sum(1), size)[:lags]
        energy_F += (part_FD**2).sum(1)
    energy_F = np.cumsum(energy_F)
    head_L = energy_F[num_frames - 1 - np.arange(lags)]
    tail_L = energy_F[-1] - np.concatenate([[0.0], energy_F[: lags - 1]])
    scale_L = np.sqrt(head_L * tail_L)
    return np.where(scale_L > TINY, product_L / np.maximum(scale_L, TINY), 0.0)


def loop(features_FD: npt.NDArray[np.floating]) -> tuple[float, int]:
    """Does the content come back? The highest autocorrelation after it first fell to 0.

    Returns the score in [0, 1] and its lag in frames: 1 and the period where a video repeats
    itself, (0, 0) where it never comes back or never changes. Lags go up to half of the video, so
    a loop must have been seen twice. Any swing of a pendulum is a loop as well: hold it against
    real video of the same kind.
    """
    correlation_L = autocorrelation(features_FD)
    below = np.flatnonzero(correlation_L <= 0)
    if not len(below):
        return 0.0, 0
    later_L = correlation_L[below[0] :]
    score = float(min(later_L.max(), 1.0))
    if score <= TINY:
        return 0.0, 0
    edges_L = np.pad(later_L, 1, constant_values=-np.inf)
    is_peak_L = (later_L >= edges_L[:-2]) & (later_L >= edges_L[2:])
    peaks = np.flatnonzero(is_peak_L & (later_L >= NEARLY * later_L.max()))
    return score, int(below[0] + peaks[0])
