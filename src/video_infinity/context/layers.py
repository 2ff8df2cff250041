"""What stands in for a model's temporal layers while its video is spread over ranks.

Each takes the place of one declared module or processor, uses that module's own parameters by
calling it, and gives on every clip what the unmodified layer gives on the whole video.

Legend: N batch, C channels, F frames, H height, W width, S sequence (batch x pixels)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from video_infinity.comm import Communicator
from video_infinity.context.attention import (
    Block,
    ScopeBias,
    dual_scope_attention,
    query_blocks,
)
from video_infinity.context.exchange import FrameExchange, widen
from video_infinity.context.moments import apply_group_norm, clip_moments, merge_moments
from video_infinity.plan import Clip, Plan

FRAME_DIM = 2
"""Frames in [N, C, F, H, W]."""


@dataclass(frozen=True)
class BiasSchedule:
    """The paper's bias by noise level: layout is settled by the whole video, texture nearby.

    Above `switch` (training timestep, 0 to 1000) `global_` is added to the global logits, at
    and below it `local` to the local ones.
    """

    local: float = 0.0
    global_: float = 0.0
    switch: float = 800.0

    def at(self, noise_level: float) -> ScopeBias:
        if noise_level > self.switch:
            return ScopeBias(global_=self.global_)
        return ScopeBias(local=self.local)


@dataclass
class ClipContext:
    """What the temporal layers of one rank share: wire, plan, bias, and text per frame.

    text_NSD  text states of every (batch, frame), batch-major, for the spatial cross-attention
    """

    comm: Communicator
    plan: Plan
    schedule: BiasSchedule = field(default_factory=BiasSchedule)
    text_NSD: torch.Tensor | None = None
    bias: ScopeBias = field(default_factory=ScopeBias, init=False)
    _blocks: dict[Any, tuple[Block, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def clip(self) -> Clip:
        return self.plan.clips[self.comm.rank]

    @property
    def frames_per_rank(self) -> torch.Tensor:
        return torch.tensor([len(clip) for clip in self.plan.clips], dtype=torch.float32)

    def blocks(self, key_frames: tuple[int, ...], like: torch.Tensor) -> tuple[Block, ...]:
        """The attention's blocks at this noise level, made once for all layers."""
        key = (key_frames, self.bias, like.dtype)
        if key not in self._blocks:
            self._blocks[key] = query_blocks(
                self.clip.frames,
                key_frames,
                self.plan.local_frames,
                self.plan.global_context,
                self.bias,
                like=like,
            )
        return self._blocks[key]

    @contextmanager
    def at(self, noise_level: float) -> Iterator[None]:
        """Hold the bias of one noise level (training timestep) for one pass of the model."""
        before, self.bias = self.bias, self.schedule.at(noise_level)
        try:
            yield
        finally:
            self.bias = before

    def exchange(
        self, own: tuple[torch.Tensor, ...], dim: int, halo_frames: int | None = None
    ) -> FrameExchange:
        """Start the exchange of an attention layer, or of a halo of given width."""
        transfers = (
            self.plan.attention_transfers()
            if halo_frames is None
            else self.plan.halo_transfers(halo_frames)
        )
        return FrameExchange(self.comm, self.clip, transfers, own, dim)


class TimelineGroupNorm(nn.Module):
    """GroupNorm whose statistics run over the frames of all ranks. One round: moments."""

    def __init__(self, norm: nn.GroupNorm, context: ClipContext) -> None:
        super().__init__()
        self.norm, self._context = norm, context

    def forward(self, x_NCFHW: torch.Tensor) -> torch.Tensor:
        context = self._context
        rows, pending = context.comm.gather(clip_moments(x_NCFHW, self.norm.num_groups))
        pending.wait()
        moments = merge_moments(context.frames_per_rank.to(rows.device), rows[:, 0], rows[:, 1])
        return apply_group_norm(x_NCFHW, *moments, self.norm)


class TimelineConvBlock(nn.Module):
    """Norm, activation, convolution over time, as one video. One round: moments and halo.

    The halo is the norm's input, so that it can travel together with the moments. The
    convolution pads with zeros, after norm and activation, only at the video's own ends: frames
    that it computes beyond a clip's inner end are cut off.
    """

    def __init__(self, block: nn.Sequential, context: ClipContext) -> None:
        super().__init__()
        self.block, self._context = block, context

    def forward(self, x_NCFHW: torch.Tensor) -> torch.Tensor:
        context = self._context
        parts: list[Any] = list(self.block)
        norm, *between, conv = parts
        geometry = getattr(conv, "base_layer", conv)  # peft wraps a layer and keeps it there
        assert isinstance(norm, nn.GroupNorm) and geometry.stride[0] == 1
        halo_frames = (geometry.kernel_size[0] - 1) // 2 * geometry.dilation[0]
        halo = context.exchange((x_NCFHW,), FRAME_DIM, halo_frames)
        rows, pending = context.comm.gather(clip_moments(x_NCFHW, norm.num_groups))
        pending.wait()
        around = halo.wait()
        moments = merge_moments(context.frames_per_rank.to(rows.device), rows[:, 0], rows[:, 1])
        wide = apply_group_norm(widen(x_NCFHW, 0, around, FRAME_DIM), *moments, norm)
        for module in (*between, conv):
            wide = module(wide)
        return wide.narrow(FRAME_DIM, len(around.left_frames), x_NCFHW.shape[FRAME_DIM])


class DualScopeProcessor:
    """Attention processor of a temporal self-attention: [S, F, C] over one clip's frames."""

    def __init__(self, context: ClipContext) -> None:
        self._context = context

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        assert encoder_hidden_states is None and attention_mask is None, "not a self-attention"
        context = self._context
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        exchange = context.exchange((key, value), dim=1)
        query = attn.to_q(hidden_states)
        around = exchange.wait()
        blocks = context.blocks(
            (*around.left_frames, *context.clip.frames, *around.right_frames), like=query
        )
        q, k, v = (
            x.unflatten(-1, (attn.heads, -1))
            for x in (query, widen(key, 0, around, 1), widen(value, 1, around, 1))
        )
        out = dual_scope_attention(q, k, v, blocks, scale=attn.scale).flatten(-2)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


class FrameTextProcessor:
    """Cross-attention with a text of its own for every frame; the rest is the model's own."""

    def __init__(self, inner: Any, context: ClipContext) -> None:
        self._inner, self._context = inner, context

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        return self._inner(  # type: ignore[no-any-return]
            attn, hidden_states, self._context.text_NSD, attention_mask, **kwargs
        )
