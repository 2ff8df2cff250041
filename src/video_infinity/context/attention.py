"""Dual-scope attention. Pure: tensors and frame numbers in, tensors out.

Frame i attends to C(i) = N(i) ∪ G, where N(i) holds the frames at most h away and G the global
context; a frame in both counts once, as local. What does not exist is left out.

Legend: N sequences (batch x pixels), F frames, Q queries, K keys, H heads, D head channels
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812

QUERY_BLOCK_FRAMES = 16
"""Queries per block: a block of b frames reads b + 2h + |G| keys at most."""


@dataclass(frozen=True)
class ScopeBias:
    """Additive logits: `local` for j in N(i), `global_` for j in G outside of N(i)."""

    local: float = 0.0
    global_: float = 0.0


@dataclass(frozen=True)
class Block:
    """One block of queries [start, stop) and where its keys lie among the frames at hand.

    key_positions  indices into the key frames, rising
    bias_QK        float32 logits to add, -inf where a query may not look, or None if all zero
    """

    start: int
    stop: int
    key_positions: tuple[int, ...]
    bias_QK: torch.Tensor | None


def scope_bias(
    query_frames: Sequence[int],
    key_frames: Sequence[int],
    local_frames: int,
    global_context: Sequence[int],
    bias: ScopeBias,
) -> torch.Tensor:
    """The logits that make attention over `key_frames` dual-scope.

    Returns float32 [Q, K]: bias.local where |i - j| <= local_frames, bias.global_ where j is
    in the global context and further away, -inf elsewhere.
    Source: Tan et al. (2024), section 3.3.
    """
    distance_QK = torch.tensor(query_frames)[:, None] - torch.tensor(key_frames)[None, :]
    is_global_K = torch.tensor([frame in set(global_context) for frame in key_frames])
    bias_QK = torch.full(distance_QK.shape, float("-inf"))
    bias_QK = bias_QK.masked_fill(is_global_K[None, :], bias.global_)
    return bias_QK.masked_fill(distance_QK.abs() <= local_frames, bias.local)


@lru_cache(maxsize=32)
def query_blocks(
    query_frames: range,
    key_frames: tuple[int, ...],
    local_frames: int,
    global_context: tuple[int, ...],
    bias: ScopeBias,
    block_frames: int = QUERY_BLOCK_FRAMES,
) -> tuple[Block, ...]:
    """Cut a contiguous span of queries into blocks, each with the keys that it may see.

    key_frames must be sorted and hold every frame that some query may see.
    """
    blocks = []
    for start in range(query_frames.start, query_frames.stop, block_frames):
        stop = min(start + block_frames, query_frames.stop)
        first = bisect.bisect_left(key_frames, start - local_frames)
        last = bisect.bisect_right(key_frames, stop - 1 + local_frames)
        outside = [bisect.bisect_left(key_frames, g) for g in global_context]
        positions = sorted({*range(first, last), *outside})
        bias_QK = scope_bias(
            range(start, stop),
            [key_frames[p] for p in positions],
            local_frames,
            global_context,
            bias,
        )
        blocks.append(
            Block(
                start - query_frames.start,
                stop - query_frames.start,
                tuple(positions),
                bias_QK if bool(bias_QK.any()) else None,
            )
        )
    return tuple(blocks)


def dual_scope_attention(
    q_NFHD: torch.Tensor,
    k_NKHD: torch.Tensor,
    v_NKHD: torch.Tensor,
    blocks: Sequence[Block],
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(q k^T * scale + bias) v, block by block: linear in frames, no [L, L] anything.

    q_NFHD          queries of one clip
    k_NKHD, v_NKHD  keys and values of all frames at hand, in the order of `query_blocks`
    Returns [N, F, H, D].
    """
    out_NFHD = torch.empty_like(q_NFHD)
    for block in blocks:
        k_block, v_block = (_take(x, block.key_positions) for x in (k_NKHD, v_NKHD))
        bias_QK = block.bias_QK
        if bias_QK is not None:
            bias_QK = bias_QK.to(device=q_NFHD.device, dtype=q_NFHD.dtype)
        out_NFHD[:, block.start : block.stop] = F.scaled_dot_product_attention(
            q_NFHD[:, block.start : block.stop].transpose(1, 2),
            k_block.transpose(1, 2),
            v_block.transpose(1, 2),
            attn_mask=bias_QK,
            scale=scale,
        ).transpose(1, 2)
    return out_NFHD


def _take(x_NKHD: torch.Tensor, positions: tuple[int, ...]) -> torch.Tensor:
    first, last = positions[0], positions[-1] + 1
    if last - first == len(positions):
        return x_NKHD[:, first:last]
    return x_NKHD.index_select(1, torch.tensor(positions, device=x_NKHD.device))
