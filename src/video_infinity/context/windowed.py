"""FreeNoise's attention: in overlapping windows, whose results are averaged with pyramid weights.

A frame sees the frames of every window that holds it. What a rank's clip needs of others is what
the windows over it reach beyond; the weights are a window's own, so that ranks do not show.
Source: Qiu et al., FreeNoise (2023), section 3.2.

Legend: N sequences (batch x pixels), B batch, F frames, P tokens of a frame, H heads,
D head channels, Q queries
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from video_infinity.context.attention import attend
from video_infinity.context.exchange import eager
from video_infinity.context.frame_layers import DualScopeFrameProcessor
from video_infinity.context.frames import Rotary
from video_infinity.context.layers import ClipContext, parts_of
from video_infinity.context.workspace import FramesAtHand
from video_infinity.plan import Plan
from video_infinity.windows import pyramid_weight

FRAME_DIM = 1
"""Frames in [N, F, H, D] and in [B, F, P, H, D]."""


@dataclass(frozen=True)
class WindowPart:
    """One window, as a clip sees it.

    queries   the clip's frames in it
    keys      the window among the frames at hand
    weight_Q  what it counts at each of them; over all windows the weights of a frame sum to 1
    """

    queries: slice
    keys: slice
    weight_Q: torch.Tensor


def window_parts(plan: Plan, rank: int, key_frames: Sequence[int]) -> tuple[WindowPart, ...]:
    """The windows over a rank's clip.

    key_frames  at hand: without gaps, with every window over the clip
    """
    windows, clip, length = plan.scopes.windows, plan.clips[rank], plan.num_latent_frames
    assert windows is not None and len(key_frames) == key_frames[-1] - key_frames[0] + 1
    over = windows.over(clip.frames, length)
    total_F = torch.zeros(len(clip))
    shares = []
    for window in over:
        frames = range(max(window.start, clip.start), min(window.stop, clip.stop))
        queries = slice(frames.start - clip.start, frames.stop - clip.start)
        weights = [pyramid_weight(frame - window.start, len(window)) for frame in frames]
        weight_Q = torch.tensor(weights, dtype=torch.float32)
        total_F[queries] += weight_Q
        keys = slice(window.start - key_frames[0], window.stop - key_frames[0])
        shares.append((queries, keys, weight_Q))
    return tuple(WindowPart(q, keys, w / total_F[q]) for q, keys, w in shares)


@eager
def parts_at(context: ClipContext, device: torch.device) -> tuple[WindowPart, ...]:
    """The windows of a context's clip, made once for all layers."""

    def make() -> tuple[WindowPart, ...]:
        parts = window_parts(context.plan, context.comm.rank, context.frames_at_hand)
        return tuple(WindowPart(p.queries, p.keys, p.weight_Q.to(device)) for p in parts)

    found: tuple[WindowPart, ...] = context.once(("windows", device), make)
    return context.of_each_kind(found)


class WindowedProcessor:
    """Attention processor of a temporal self-attention [S, F, C], in windows."""

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
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        exchange = self._context.exchange((key, value), dim=FRAME_DIM)
        q_NFHD = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1))
        around = exchange.wait()
        k, v = (
            FramesAtHand(
                [part.unflatten(-1, (attn.heads, -1)) for part in parts_of(x, nth, around)],
                FRAME_DIM,
            )
            for nth, x in enumerate((key, value))
        )
        wide = torch.promote_types(q_NFHD.dtype, torch.float32)
        out_NFHD = torch.zeros_like(q_NFHD, dtype=wide)
        for part in parts_at(self._context, q_NFHD.device):
            span = part.keys.start, part.keys.stop
            q = q_NFHD[:, part.queries]
            attended, _lse = attend(q, k.span(*span), v.span(*span), None, attn.scale)
            out_NFHD[:, part.queries] += attended * part.weight_Q.to(wide)[:, None, None]
        out = out_NFHD.to(q_NFHD.dtype).flatten(-2)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class WindowLayout:
    """What all layers share: rotations to true positions of queries and of keys, and windows."""

    query_table: Any
    key_table: Any
    parts: tuple[WindowPart, ...]


class WindowedFrameProcessor(DualScopeFrameProcessor):
    """Attention processor of a self-attention over the tokens of whole frames, in windows."""

    def _layout(self, rotary: Rotary, k_BFPHD: torch.Tensor) -> WindowLayout:
        context, device = self._context, k_BFPHD.device

        def tables() -> tuple[Any, Any]:
            frames = context.clip.frames, context.frames_at_hand
            at = [torch.tensor(f, dtype=torch.float64, device=device) for f in frames]
            return rotary.time_table(at[0]), rotary.time_table(at[1])

        query_table, key_table = context.once(("window tables", device), tables)
        return WindowLayout(query_table, key_table, parts_at(context, device))

    def _attended(
        self,
        q_BFPHD: torch.Tensor,
        k_BFPHD: torch.Tensor,
        v_BFPHD: torch.Tensor,
        layout: WindowLayout,
        rotary: Rotary,
    ) -> torch.Tensor:
        k_BFPHD = rotary.in_time(k_BFPHD, layout.key_table)
        wide = torch.promote_types(q_BFPHD.dtype, torch.float32)
        out_BFPHD = torch.zeros_like(q_BFPHD, dtype=wide)
        for part in layout.parts:
            q = q_BFPHD[:, part.queries]
            k, v = (x[:, part.keys].flatten(1, 2) for x in (k_BFPHD, v_BFPHD))
            attended = self._attend(q.flatten(1, 2), k, v, None).unflatten(1, (q.shape[1], -1))
            out_BFPHD[:, part.queries] += attended * part.weight_Q.to(wide)[:, None, None, None]
        return out_BFPHD
