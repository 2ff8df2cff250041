"""Dual-scope attention over time. Pure: tensors and frame numbers in, tensors out.

Frame i attends to C(i) = N(i) ∪ G, where N(i) holds the frames at most h away and G the global
context; a frame in both counts once, as local. What does not exist is left out.

The two scopes are two attentions, merged by their log-sum-exp. The local one goes in blocks of
queries over slices of the keys, so that no key is copied and a block whose keys are the clip's own
needs nothing that travels. The far one, over G outside of N(i), is one call for all queries.

Legend: N sequences (batch x pixels), F frames, Q queries, K keys, G far keys, H heads,
D head channels
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from video_infinity.context.workspace import FramesAtHand

FRAME_DIM = 1
"""Frames in [N, F, H, D]."""

QUERY_BLOCK_FRAMES = 16
"""Queries per block: a block of b frames reads b + 2h local keys."""

MASK_ALIGNMENT = 8
"""Rows of a mask start at multiples of this many values, as the kernels on CUDA want."""


@dataclass(frozen=True)
class ScopeBias:
    """Additive logits: `local` for j in N(i), `global_` for j in G outside of N(i)."""

    local: float = 0.0
    global_: float = 0.0


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) of a clip, and their local keys [first, last) among those at hand.

    mask_QK  0, or -inf where a query may not look; None if all may look at all
    """

    start: int
    stop: int
    first: int
    last: int
    mask_QK: torch.Tensor | None


@dataclass(frozen=True)
class FarScope:
    """Global frames that are far from some query of the clip.

    places_G   where they lie among the frames at hand, rising
    mask_QG    0, or -inf where a frame is local to a query; None if all are far from all
    logit_Q    what the bias adds to them; -inf for a query that has none
    """

    places_G: tuple[int, ...]
    mask_QG: torch.Tensor | None
    logit_Q: torch.Tensor


@dataclass(frozen=True)
class Layout:
    """What one clip attends to: made once for all layers of a step.

    own    the places of the clip's own frames among those at hand
    inner  blocks whose keys are the clip's own
    outer  blocks that read received frames
    """

    own: range
    inner: tuple[Block, ...]
    outer: tuple[Block, ...]
    far: FarScope | None


def lay_out(
    query_frames: range,
    key_frames: Sequence[int],
    local_frames: int,
    global_context: Sequence[int],
    bias: ScopeBias,
    *,
    like: torch.Tensor,
    block_frames: int = QUERY_BLOCK_FRAMES,
) -> Layout:
    """Cut a clip's queries into blocks, and find the keys that each may see.

    key_frames  at hand: sorted, with the clip's own and every frame that some query may see
    like        a tensor of the device and type that attention runs in
    """
    first_own = bisect.bisect_left(key_frames, query_frames.start)
    own = range(first_own, first_own + len(query_frames))
    inner: list[Block] = []
    outer: list[Block] = []
    for start in range(query_frames.start, query_frames.stop, block_frames):
        queries = range(start, min(start + block_frames, query_frames.stop))
        first = bisect.bisect_left(key_frames, queries[0] - local_frames)
        last = bisect.bisect_right(key_frames, queries[-1] + local_frames)
        outside = _distance(queries, key_frames[first:last]) > local_frames
        place = queries[0] - query_frames.start
        block = Block(place, place + len(queries), first, last, _mask(outside, like))
        (inner if own.start <= first and last <= own.stop else outer).append(block)
    far = _far_scope(query_frames, key_frames, local_frames, global_context, bias, like)
    return Layout(own, tuple(inner), tuple(outer), far)


def _far_scope(
    query_frames: range,
    key_frames: Sequence[int],
    local_frames: int,
    global_context: Sequence[int],
    bias: ScopeBias,
    like: torch.Tensor,
) -> FarScope | None:
    context = sorted(set(global_context).intersection(key_frames))
    is_near_QG = _distance(query_frames, context) <= local_frames
    kept = np.flatnonzero(~is_near_QG.all(0))
    if not len(kept):
        return None
    frames, is_near_QG = [context[place] for place in kept], is_near_QG[:, kept]
    has_none_Q = is_near_QG.all(1)
    logit_Q = np.where(has_none_Q, -np.inf, bias.global_ - bias.local).astype(np.float32)
    # A row with nothing to see would be no number: it sees all, and its logit leaves it out.
    is_near_QG[has_none_Q] = False
    return FarScope(
        tuple(bisect.bisect_left(key_frames, frame) for frame in frames),
        _mask(is_near_QG, like),
        torch.from_numpy(logit_Q).to(like.device),
    )


def _distance(query_frames: Sequence[int], key_frames: Sequence[int]) -> npt.NDArray[np.int64]:
    queries_Q, keys_K = (np.asarray(frames, np.int64) for frames in (query_frames, key_frames))
    distance_QK: npt.NDArray[np.int64] = np.abs(queries_Q[:, None] - keys_K[None, :])
    return distance_QK


def _mask(hidden_QK: npt.NDArray[np.bool_], like: torch.Tensor) -> torch.Tensor | None:
    if not hidden_QK.any():
        return None
    queries, keys = hidden_QK.shape
    wide = torch.zeros(queries, -(-keys // MASK_ALIGNMENT) * MASK_ALIGNMENT)
    wide[:, :keys].masked_fill_(torch.from_numpy(hidden_QK), -math.inf)
    return wide.to(like)[:, :keys]


class DualScopeAttention:
    """softmax(q k^T * scale + bias) v, linear in frames: no [L, L] anything.

    Call `attend_inner` while frames travel, then `finish`.
    """

    def __init__(self, q_NFHD: torch.Tensor, layout: Layout, scale: float | None = None) -> None:
        self._q, self._layout = q_NFHD, layout
        self._scale = q_NFHD.shape[-1] ** -0.5 if scale is None else scale
        batch, frames, heads, _ = q_NFHD.shape
        self._out = torch.empty_like(q_NFHD)
        wide = torch.promote_types(q_NFHD.dtype, torch.float32)
        self._lse_NHF = q_NFHD.new_empty((batch, heads, frames), dtype=wide)

    def attend_inner(self, k_NFHD: torch.Tensor, v_NFHD: torch.Tensor) -> None:
        """The blocks whose keys are the clip's own."""
        first = self._layout.own.start
        for block in self._layout.inner:
            keys = slice(block.first - first, block.last - first)
            self._attend(block, k_NFHD[:, keys], v_NFHD[:, keys])

    def finish(self, keys: FramesAtHand, values: FramesAtHand) -> torch.Tensor:
        """The other blocks, then the global context. Returns [N, F, H, D]."""
        for block in self._layout.outer:
            span = block.first, block.last
            self._attend(block, keys.span(*span), values.span(*span))
        far = self._layout.far
        if far is not None:
            k_NGHD, v_NGHD = keys.pick(far.places_G), values.pick(far.places_G)
            out, lse_NHF = attend(self._q, k_NGHD, v_NGHD, far.mask_QG, self._scale)
            share_NHF = (lse_NHF + far.logit_Q - self._lse_NHF).sigmoid()
            self._out.lerp_(out, share_NHF.transpose(1, 2)[..., None].to(out.dtype))
        return self._out

    def _attend(self, block: Block, k_NKHD: torch.Tensor, v_NKHD: torch.Tensor) -> None:
        span = slice(block.start, block.stop)
        out, lse_NHQ = attend(self._q[:, span], k_NKHD, v_NKHD, block.mask_QK, self._scale)
        self._out[:, span], self._lse_NHF[..., span] = out, lse_NHQ


def dual_scope_attention(
    q_NFHD: torch.Tensor,
    k_NKHD: torch.Tensor,
    v_NKHD: torch.Tensor,
    layout: Layout,
    scale: float | None = None,
) -> torch.Tensor:
    """The same in one call, with keys and values of all frames at hand. Returns [N, F, H, D]."""
    own = slice(layout.own.start, layout.own.stop)
    attention = DualScopeAttention(q_NFHD, layout, scale)
    attention.attend_inner(k_NKHD[:, own], v_NKHD[:, own])
    return attention.finish(*(FramesAtHand([x], FRAME_DIM) for x in (k_NKHD, v_NKHD)))


def attend(
    q_NQHD: torch.Tensor,
    k_NKHD: torch.Tensor,
    v_NKHD: torch.Tensor,
    mask_QK: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T * scale + mask) v as [N, Q, H, D], and the log-sum-exp [N, H, Q] of its logits.

    By the kernels behind `scaled_dot_product_attention`, which does not hand on the log-sum-exp:
    flash on the CPU, memory-efficient on CUDA. Elsewhere the formula itself.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_NQHD, k_NKHD, v_NKHD))
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, attn_mask=mask_QK, scale=scale
        )
    elif q.device.type == "cuda" and q.dtype != torch.float64 and q.shape[-1] % 8 == 0:
        out, lse = _memory_efficient(q, k, v, mask_QK, scale)
    else:
        out, lse = by_formula(q, k, v, mask_QK, scale)
    return out.transpose(1, 2), lse


def _memory_efficient(q: Any, k: Any, v: Any, mask_QK: Any, scale: float) -> tuple[Any, Any]:
    bias = None if mask_QK is None else mask_QK.expand(*q.shape[:2], -1, -1)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, scale=scale
    )
    return out, lse[..., : q.shape[2]]  # the kernel rounds the number of queries up


def by_formula(
    q_NHQD: torch.Tensor,
    k_NHKD: torch.Tensor,
    v_NHKD: torch.Tensor,
    mask_QK: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, written out; for a block of queries at a time. Returns [N, H, Q, D], [N, H, Q]."""
    wide = torch.promote_types(q_NHQD.dtype, torch.float32)
    logits_NHQK = q_NHQD.to(wide) @ k_NHKD.to(wide).transpose(-1, -2) * scale
    if mask_QK is not None:
        logits_NHQK = logits_NHQK + mask_QK
    lse_NHQ = logits_NHQK.logsumexp(-1)
    out = (logits_NHQK - lse_NHQ[..., None]).exp() @ v_NHKD.to(wide)
    return out.to(q_NHQD.dtype), lse_NHQ
