"""Token-wise layers in slices, and convolutions over time as two-dimensional ones."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn

from video_infinity.context import slices
from video_infinity.context.convolution import convolve_over_time
from video_infinity.context.slices import SlicedTokens

CHANNELS = 8


@pytest.mark.parametrize("activation", ["geglu", "gelu-approximate"])
def test_slices_of_tokens_are_the_whole(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    feed_forward = FeedForward(CHANNELS, activation_fn=activation).eval()
    widest = feed_forward.net[0].proj.out_features
    monkeypatch.setitem(slices.SLICE_BYTES, "cpu", 5 * widest * 4)
    sizes: list[int] = []
    feed_forward.register_forward_pre_hook(lambda _, given: sizes.append(given[0][..., 0].numel()))
    hidden = torch.randn(3, 7, CHANNELS)
    with torch.inference_mode():
        ours = SlicedTokens(feed_forward, widest)(hidden)
        assert sizes == [5, 5, 5, 5, 1]
        torch.testing.assert_close(ours, feed_forward(hidden))


def test_few_tokens_go_in_one_call() -> None:
    calls: list[torch.Size] = []
    linear = nn.Linear(CHANNELS, 3)
    linear.register_forward_pre_hook(lambda _, given: calls.append(given[0].shape))
    assert SlicedTokens(linear, CHANNELS)(torch.zeros(2, 4, CHANNELS)).shape == (2, 4, 3)
    assert calls == [(2, 4, CHANNELS)]


CONVOLUTIONS = {
    "over time": nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)),
    "dilated, in groups": nn.Conv3d(
        4, 6, (3, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1), groups=2
    ),
    "without bias": nn.Conv3d(4, 6, (5, 1, 1), padding=(2, 0, 0), bias=False),
    "over space too": nn.Conv3d(4, 6, 3, padding=1),
    "over a padded space": nn.Conv3d(4, 6, (3, 1, 1), padding=1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("contiguous", [True, False])
def test_equals_the_convolution_itself(name: str, contiguous: bool) -> None:
    conv = CONVOLUTIONS[name].double()
    x_NCFHW = torch.randn(2, 4, 7, 3, 5, dtype=torch.float64)
    if not contiguous:
        x_NCFHW = x_NCFHW.transpose(1, 2).contiguous().transpose(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(convolve_over_time(conv, x_NCFHW), conv(x_NCFHW))


def test_a_convolution_over_time_takes_no_three_dimensional_kernel() -> None:
    """Else the copy of its input would grow with the video."""
    x_NCFHW = torch.randn(2, 4, 7, 3, 5)
    with torch.inference_mode(), torch.profiler.profile() as profile:
        convolve_over_time(CONVOLUTIONS["over time"].float(), x_NCFHW)
    names = {event.key for event in profile.key_averages()}
    assert "aten::conv2d" in names and not any("conv3d" in name for name in names)
