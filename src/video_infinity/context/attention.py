"""Dual-scope attention. Pure: tensors and frame numbers in, tensors out.

Frame i attends to C(i) = N(i) ∪ G, where N(i) holds the frames at most h away and G the global
context; a frame in both counts once, as local. What does not exist is left out.

Legend: N sequences (batch x pixels), F frames, Q queries, K keys, H heads, D head channels
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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

    keys     a slice of the key frames, or their indices on the device, rising
    bias_QK  logits to add, -inf where a query may not look, or None if all zero
    """

    start: int
    stop: int
    keys: slice | torch.Tensor
    bias_QK: torch.Tensor | None


def scope_bias(
    query_frames: Sequence[int],
    key_frames: Sequence[int],
    local_frames: int,
    global_context: Sequence[int],
    bias: ScopeBias,
) -> npt.NDArray[np.float32]:
    """The logits that make attention over `key_frames` dual-scope.

    Returns float32 [Q, K]: bias.local where |i - j| <= local_frames, bias.global_ where j is
    in the global context and further away, -inf elsewhere.
    Source: Tan et al. (2024), section 3.3.
    """
    keys_K = np.asarray(key_frames)
    distance_QK = np.abs(np.asarray(query_frames)[:, None] - keys_K[None, :])
    far_K = np.where(np.isin(keys_K, np.asarray(global_context)), bias.global_, -np.inf)
    return np.where(distance_QK <= local_frames, bias.local, far_K[None, :]).astype(np.float32)


def query_blocks(
    query_frames: range,
    key_frames: Sequence[int],
    local_frames: int,
    global_context: Sequence[int],
    bias: ScopeBias,
    *,
    like: torch.Tensor,
    block_frames: int = QUERY_BLOCK_FRAMES,
) -> tuple[Block, ...]:
    """Cut a contiguous span of queries into blocks, each with the keys that it may see.

    key_frames  sorted, with every frame that some query may see
    like        a tensor of the device and type that attention runs in
    """
    blocks = []
    outside = [bisect.bisect_left(key_frames, frame) for frame in global_context]
    for start in range(query_frames.start, query_frames.stop, block_frames):
        queries = range(start, min(start + block_frames, query_frames.stop))
        first = bisect.bisect_left(key_frames, queries[0] - local_frames)
        last = bisect.bisect_right(key_frames, queries[-1] + local_frames)
        positions = sorted({*range(first, last), *outside})
        bias_QK = scope_bias(
            queries, [key_frames[p] for p in positions], local_frames, global_context, bias
        )
        blocks.append(
            Block(
                start - query_frames.start,
                start - query_frames.start + len(queries),
                _selection(positions, like.device),
                torch.from_numpy(bias_QK).to(like) if bias_QK.any() else None,
            )
        )
    return tuple(blocks)


def _selection(positions: list[int], device: torch.device) -> slice | torch.Tensor:
    first, stop = positions[0], positions[-1] + 1
    if stop - first == len(positions):
        return slice(first, stop)
    return torch.tensor(positions, device=device)


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
        span = slice(block.start, block.stop)
        out_NFHD[:, span] = F.scaled_dot_product_attention(
            q_NFHD[:, span].transpose(1, 2),
            k_NKHD[:, block.keys].transpose(1, 2),
            v_NKHD[:, block.keys].transpose(1, 2),
            attn_mask=block.bias_QK,
            scale=scale,
        ).transpose(1, 2)
    return out_NFHD
