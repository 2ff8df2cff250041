"""Token-wise layers in slices, and convolutions over time as two-dimensional ones."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn

from video_infinity.comm import SingleCommunicator
from video_infinity.context.convolution import convolve_over_time
from video_infinity.context.layers import ClipContext
from video_infinity.context.slices import SlicedFrames, SlicedTokens
from video_infinity.context.text import FrameText
from video_infinity.context.workspace import Workspace
from video_infinity.plan import Plan, Scopes, split_timeline

CHANNELS = 8
FRAMES = 7


def context_with(workspace: Workspace) -> ClipContext:
    """Of a video of a few frames in two branches, on one rank."""
    text = FrameText(torch.zeros(2, 3, 4), ((0,) * FRAMES, (1,) * FRAMES))
    plan = Plan(split_timeline(FRAMES, 1), Scopes(2, 1))
    return ClipContext(SingleCommunicator(), plan, text, workspace=workspace)


@pytest.mark.parametrize("activation", ["geglu", "gelu-approximate"])
def test_slices_of_tokens_are_the_whole(activation: str) -> None:
    feed_forward = FeedForward(CHANNELS, activation_fn=activation).eval()
    widest = feed_forward.net[0].proj.out_features
    context = context_with(Workspace(layer_bytes=5 * widest * 4))
    sizes: list[int] = []
    feed_forward.register_forward_pre_hook(lambda _, given: sizes.append(given[0][..., 0].numel()))
    hidden = torch.randn(3, 7, CHANNELS)
    with torch.inference_mode():
        ours = SlicedTokens(feed_forward, widest, context)(hidden)
        assert sizes == [4, 4, 4, 4, 5]
        torch.testing.assert_close(ours, feed_forward(hidden))


def test_few_tokens_go_in_one_call() -> None:
    calls: list[torch.Size] = []
    linear = nn.Linear(CHANNELS, 3)
    linear.register_forward_pre_hook(lambda _, given: calls.append(given[0].shape))
    assert SlicedTokens(linear, CHANNELS, context_with(Workspace()))(
        torch.zeros(2, 4, CHANNELS)
    ).shape == (2, 4, 3)
    assert calls == [(2, 4, CHANNELS)]


class Noting(nn.Module):
    """Adds a row to every frame, and notes what the frames of each call are told."""

    def __init__(self, context: ClipContext, in_tuple: bool) -> None:
        super().__init__()
        self.context, self.in_tuple = context, in_tuple
        self.told: list[tuple[int, ...]] = []

    def forward(self, x_KCHW: torch.Tensor, rows_KC: torch.Tensor, *, scale: float) -> object:
        assert len(x_KCHW) == len(rows_KC)
        self.told.append(self.context.text.row_BF[0])
        out = x_KCHW + scale * rows_KC[:, :, None, None]
        return (out,) if self.in_tuple else out


@pytest.mark.parametrize("in_tuple", [True, False])
def test_slices_of_frames_are_the_whole_and_read_their_own_text(in_tuple: bool) -> None:
    x_KCHW, rows_KC = torch.randn(2 * FRAMES, 3, 2, 2), torch.randn(2 * FRAMES, 3)
    context = context_with(Workspace(layer_bytes=4 * x_KCHW[0].nbytes))
    inner = Noting(context, in_tuple)
    ours = SlicedFrames(inner, context)(x_KCHW, rows_KC, scale=2.0)
    expected = Noting(context, False)(x_KCHW, rows_KC, scale=2.0)
    assert torch.equal(ours[0] if in_tuple else ours, expected)
    assert [len(rows) for rows in inner.told] == [3, 4, 3, 4]
    assert [row for rows in inner.told for row in rows] == [0] * FRAMES + [1] * FRAMES
    assert context.text.num_branches == 2, "the whole text is held again"


CONVOLUTIONS = {
    "over time": nn.Conv3d(4, 6, (3, 1, 1), padding=(1, 0, 0)),
    "dilated, in groups": nn.Conv3d(
        4, 6, (3, 1, 1), padding=(2, 0, 0), dilation=(2, 1, 1), groups=2
    ),
    "without bias": nn.Conv3d(4, 6, (5, 1, 1), padding=(2, 0, 0), bias=False),
    "padded by name": nn.Conv3d(4, 6, (3, 1, 1), padding="same"),
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
