"""Dual-scope attention against a dense masked softmax written out in float64."""

from __future__ import annotations

import math

import pytest
import torch

from video_infinity.context import attention
from video_infinity.context.attention import ScopeBias, dual_scope_attention, query_blocks

LENGTH, HEADS, CHANNELS = 41, 2, 4


def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    local_frames: int,
    context: tuple[int, ...],
    bias: ScopeBias,
) -> torch.Tensor:
    """The formula of the design, frame by frame: out_i = softmax_j in C(i)(q k / sqrt d + b) v."""
    out = torch.zeros_like(q, dtype=torch.float64)
    for i in range(LENGTH):
        near = [j for j in range(LENGTH) if abs(i - j) <= local_frames]
        far = [j for j in context if j not in near]
        b = torch.tensor([bias.local] * len(near) + [bias.global_] * len(far)).double()
        keys, values = (x.double()[:, near + far] for x in (k, v))
        logits = torch.einsum("nhd,nkhd->nhk", q.double()[:, i], keys) / math.sqrt(CHANNELS) + b
        out[:, i] = torch.einsum("nhk,nkhd->nhd", logits.softmax(-1), values)
    return out.float()


@pytest.fixture
def qkv() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, LENGTH, HEADS, CHANNELS, generator=generator) * 2 for _ in range(3))


CONTEXTS = {"none": (), "even": (0, 8, 16, 24, 32), "ends": (0, 40), "all": tuple(range(LENGTH))}


@pytest.mark.parametrize("block_frames", [1, 7, 16, 64])
@pytest.mark.parametrize("local_frames", [0, 3, 40])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("bias", [ScopeBias(), ScopeBias(10.0, 0.0), ScopeBias(0.0, 10.0)])
def test_equals_the_dense_formula(
    qkv: tuple[torch.Tensor, ...],
    block_frames: int,
    local_frames: int,
    context: str,
    bias: ScopeBias,
) -> None:
    q, k, v = qkv
    blocks = query_blocks(
        range(LENGTH),
        tuple(range(LENGTH)),
        local_frames,
        CONTEXTS[context],
        bias,
        like=q,
        block_frames=block_frames,
    )
    ours = dual_scope_attention(q, k, v, blocks)
    expected = dense(q, k, v, local_frames, CONTEXTS[context], bias)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_clip_needs_only_its_own_keys(qkv: tuple[torch.Tensor, ...]) -> None:
    q, k, v = qkv
    clip, near, context = range(10, 19), range(7, 22), (0, 8, 16, 24, 32)
    keys = tuple(sorted({*near, *context}))
    blocks = query_blocks(clip, keys, 3, context, ScopeBias(1.0, 0.5), like=q, block_frames=4)
    ours = dual_scope_attention(q[:, 10:19], k[:, list(keys)], v[:, list(keys)], blocks)
    expected = dense(q, k, v, 3, context, ScopeBias(1.0, 0.5))[:, 10:19]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_global_frame_nearby_counts_once_and_as_local(qkv: tuple[torch.Tensor, ...]) -> None:
    """Bias on the global scope must not touch a frame that is in both."""
    q, k, v = qkv
    blocks = query_blocks(range(LENGTH), range(LENGTH), 40, (0, 20), ScopeBias(0.0, 50.0), like=q)
    plain = query_blocks(range(LENGTH), range(LENGTH), 40, (), ScopeBias(), like=q)
    assert torch.equal(dual_scope_attention(q, k, v, blocks), dual_scope_attention(q, k, v, plain))


def test_whole_scope_without_bias_needs_no_mask() -> None:
    blocks = query_blocks(range(9), range(9), 8, (0, 4), ScopeBias(), like=torch.ones(1))
    assert all(block.bias_QK is None for block in blocks)


def test_nothing_is_quadratic_in_length() -> None:
    """Masks of all blocks together grow in proportion to the frames."""

    def mask_values(length: int) -> int:
        blocks = query_blocks(
            range(length),
            tuple(range(length)),
            8,
            tuple(k * length // 16 for k in range(16)),
            ScopeBias(),
            like=torch.ones(1),
        )
        b = attention.QUERY_BLOCK_FRAMES
        masks = [block.bias_QK for block in blocks if block.bias_QK is not None]
        assert all(mask.shape[1] <= b + 2 * 8 + 16 for mask in masks)
        return sum(mask.numel() for mask in masks)

    assert mask_values(4096) / mask_values(1024) == pytest.approx(4.0, rel=0.02)
