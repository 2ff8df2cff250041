"""Group norm over the timeline, from moments of unequal clips, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from video_infinity.context.moments import apply_group_norm, clip_moments, merge_moments
from video_infinity.errors import PlanError

LENGTHS = (1, 7, 3)


@pytest.fixture
def drifting_video() -> torch.Tensor:
    """A mean that moves over time, far from zero: where wrong formulas show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, sum(LENGTHS), 4, 5, generator=generator)
    return x + torch.linspace(20, 26, sum(LENGTHS)).view(1, 1, -1, 1, 1)


def merged(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    parts = torch.stack([clip_moments(part, 3) for part in x.split(LENGTHS, 2)])
    return merge_moments(torch.tensor(LENGTHS), parts[:, 0], parts[:, 1])


@pytest.mark.parametrize("affine", [True, False])
def test_equals_group_norm_of_the_whole_video(drifting_video: torch.Tensor, affine: bool) -> None:
    norm = nn.GroupNorm(3, 12, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    with torch.no_grad():
        ours = apply_group_norm((drifting_video,), *merged(drifting_video), norm)
        torch.testing.assert_close(ours, norm(drifting_video), rtol=1e-4, atol=1e-4)


def test_mean_of_variances_would_be_wrong(drifting_video: torch.Tensor) -> None:
    _, variance = merged(drifting_video)
    parts = torch.stack([clip_moments(part, 3) for part in drifting_video.split(LENGTHS, 2)])
    assert float((parts[:, 1].mean(0) / variance).max()) < 0.5


def test_unweighted_means_would_be_wrong(drifting_video: torch.Tensor) -> None:
    mean, _ = merged(drifting_video)
    parts = torch.stack([clip_moments(part, 3) for part in drifting_video.split(LENGTHS, 2)])
    assert float((parts[:, 0].mean(0) - mean).abs().min()) > 0.1


def test_half_precision_keeps_its_moments_in_float32(drifting_video: torch.Tensor) -> None:
    moments = clip_moments((drifting_video * 10).half(), 3)
    assert moments.dtype == torch.float32
    expected = torch.var_mean(
        (drifting_video * 10).half().double().view(2, 3, -1), -1, correction=0
    )
    torch.testing.assert_close(moments[1].double(), expected[0], rtol=1e-4, atol=0)


def test_double_precision_stays_double(drifting_video: torch.Tensor) -> None:
    """Shares of 1, 7 and 3 frames in 11 are no float32 numbers."""
    norm, x = nn.GroupNorm(3, 12).double(), drifting_video.double()
    with torch.no_grad():
        parts = torch.stack([clip_moments(part, 3) for part in x.split(LENGTHS, 2)])
        counts = torch.tensor(LENGTHS, dtype=torch.float32)
        moments = merge_moments(counts, parts[:, 0], parts[:, 1])
        ours = apply_group_norm(x.split(LENGTHS, 2), *moments, norm)
        torch.testing.assert_close(ours, norm(x), rtol=1e-12, atol=1e-12)


def test_ranks_that_do_not_match_are_refused() -> None:
    with pytest.raises(PlanError, match="2, 3 and 3 ranks"):
        merge_moments(torch.ones(2), torch.ones(3, 1, 1), torch.ones(3, 1, 1))
