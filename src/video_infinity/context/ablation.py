"""Clip parallelism with a part of the context exchange left out, to see what that part does.

The timeline is cut into clips of a given length, whatever the ranks, each of which is a video of
its own in the parts that are left out: `conv`, no halo of convolutions; `norm`, moments of its own;
`attention`, keys of its own, and global frames chosen over it. So an ablated video is a function of
the request as well. A rank holds whole clips.
Source: Tan et al. (2024), section 4.3.

Legend: N batch, C channels, F frames, H height, W width, S sequences, B batch, T tokens
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from video_infinity.comm import SingleCommunicator
from video_infinity.context.frame_layers import DualScopeFrameProcessor, FrameAttentionOps
from video_infinity.context.install import Layers
from video_infinity.context.layers import (
    ClipContext,
    DualScopeProcessor,
    TimelineConvBlock,
    TimelineGroupNorm,
    parts_of,
)
from video_infinity.context.moments import FRAME_DIM
from video_infinity.context.workspace import FramesAtHand
from video_infinity.plan import Clip, Plan


@dataclass(frozen=True)
class Ablation:
    """What is left out, and between which clips.

    parts  some of "conv", "norm", "attention"
    spans  the clips that this rank holds, counted from its first frame; together all its frames
    """

    parts: frozenset[str]
    spans: tuple[slice, ...]

    @classmethod
    def of(cls, parts: Collection[str], clips: Sequence[range], own: Clip) -> Ablation:
        """For the rank whose frames are `own`, where the timeline is cut into `clips`."""
        held = [c for c in clips if own.start <= c.start and c.stop <= own.stop]
        assert sum(map(len, held)) == len(own), "a rank holds whole clips"
        spans = tuple(slice(c.start - own.start, c.stop - own.start) for c in held)
        return cls(frozenset(parts), spans)

    def layers(self) -> Layers:
        """What `install.installed` puts in for it."""
        layers = Layers()
        if "attention" in self.parts:
            layers = replace(
                layers,
                attention=lambda context: AttentionApart(_Apart(context, self)),
                frame_attention=lambda inner, ops, context: FrameAttentionApart(
                    inner, ops, _Apart(context, self)
                ),
            )
        if "norm" in self.parts:
            layers = replace(layers, norm=lambda n, context: NormApart(n, _Apart(context, self)))
        if self.parts & {"conv", "norm"}:
            layers = replace(
                layers, conv=lambda block, context: ConvBlockApart(block, context, self)
            )
        return layers


class _Apart:
    """Contexts of clips that are videos of their own, in step with that of the rank."""

    def __init__(self, context: ClipContext, ablation: Ablation) -> None:
        self._context, self._spans = context, ablation.spans
        self._alone: dict[int, ClipContext] = {}

    def __iter__(self) -> Iterator[tuple[slice, ClipContext]]:
        context = self._context
        for span in self._spans:
            length = span.stop - span.start
            plan = Plan((Clip(0, length),), context.plan.scopes, context.plan.shift)
            if length not in self._alone:
                self._alone[length] = ClipContext(
                    SingleCommunicator(), plan, context.text, workspace=context.workspace
                )
            alone = self._alone[length]
            alone.hold(plan)
            alone.bias = context.bias
            yield span, alone


class AttentionApart:
    """Temporal self-attention [S, F, C] in which every clip sees itself alone."""

    def __init__(self, apart: _Apart) -> None:
        self._apart = apart

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **named: Any) -> Any:
        parts = [
            DualScopeProcessor(alone)(attn, hidden_states[:, span], *args, **named)
            for span, alone in self._apart
        ]
        return torch.cat(parts, 1)


class FrameAttentionApart:
    """Self-attention over the tokens of frames [B, T, C] in which every clip sees itself alone."""

    def __init__(self, inner: Any, ops: FrameAttentionOps, apart: _Apart) -> None:
        self._inner, self._ops, self._apart = inner, ops, apart

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **named: Any) -> Any:
        clips = list(self._apart)
        frames = clips[-1][0].stop
        hidden_BFPC = hidden_states.unflatten(1, (frames, -1))
        parts = [
            DualScopeFrameProcessor(self._inner, self._ops, alone)(
                attn, hidden_BFPC[:, span].flatten(1, 2), *args, **named
            )
            for span, alone in clips
        ]
        return torch.cat(parts, 1)


class NormApart(nn.Module):
    """GroupNorm over every clip's own frames."""

    def __init__(self, norm: nn.GroupNorm, apart: _Apart) -> None:
        super().__init__()
        self.norm, self._apart = norm, apart

    def forward(self, x_NCFHW: torch.Tensor) -> torch.Tensor:
        parts = [
            TimelineGroupNorm(self.norm, alone)(x_NCFHW[:, :, span]) for span, alone in self._apart
        ]
        return torch.cat(parts, FRAME_DIM)


class ConvBlockApart(TimelineConvBlock):
    """Norm, activation, convolution over time, clip by clip: without halo, or moments of others."""

    def __init__(self, block: nn.Sequential, context: ClipContext, ablation: Ablation) -> None:
        super().__init__(block, context)
        self._apart, self._parts = _Apart(context, ablation), ablation.parts

    def forward(self, x_NCFHW: torch.Tensor) -> torch.Tensor:
        context, halo_frames, groups = self._context, self.halo_frames, self.block[0].num_groups
        assert isinstance(groups, int)
        at_hand, first, shared = FramesAtHand([x_NCFHW], FRAME_DIM), 0, None
        if "conv" not in self._parts:
            around = context.exchange((x_NCFHW,), FRAME_DIM, halo_frames).wait()
            at_hand = FramesAtHand(parts_of(x_NCFHW, 0, around), FRAME_DIM)
            first = len(around.left_frames)
        if "norm" not in self._parts:
            shared = context.moments(x_NCFHW, groups).wait()
        out = []
        for span, alone in self._apart:
            own = x_NCFHW[:, :, span]
            moments = shared or alone.moments(own, groups).wait()
            seen, clip = at_hand, range(first + span.start, first + span.stop)
            if "conv" in self._parts:
                seen, clip = FramesAtHand([own], FRAME_DIM), range(own.shape[FRAME_DIM])
            out.append(self._convolve(seen, clip, moments, halo_frames))
        return torch.cat(out, FRAME_DIM)
