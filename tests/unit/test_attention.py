"""Dual-scope attention against a dense masked softmax written out in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from video_infinity.context import attention
from video_infinity.context.attention import (
    DualScopeAttention,
    ScopeBias,
    dual_scope_attention,
    lay_out,
)
from video_infinity.context.workspace import FramesAtHand

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
    layout = lay_out(
        range(LENGTH),
        tuple(range(LENGTH)),
        local_frames,
        CONTEXTS[context],
        bias,
        like=q,
        block_frames=block_frames,
    )
    ours = dual_scope_attention(q, k, v, layout)
    expected = dense(q, k, v, local_frames, CONTEXTS[context], bias)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_clip_needs_only_its_own_keys(qkv: tuple[torch.Tensor, ...]) -> None:
    q, k, v = qkv
    clip, near, context = range(10, 19), range(7, 22), (0, 8, 16, 24, 32)
    keys = tuple(sorted({*near, *context}))
    layout = lay_out(clip, keys, 3, context, ScopeBias(1.0, 0.5), like=q, block_frames=4)
    ours = dual_scope_attention(q[:, 10:19], k[:, list(keys)], v[:, list(keys)], layout)
    expected = dense(q, k, v, 3, context, ScopeBias(1.0, 0.5))[:, 10:19]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_global_frame_nearby_counts_once_and_as_local(qkv: tuple[torch.Tensor, ...]) -> None:
    """Bias on the global scope must not touch a frame that is in both."""
    q, k, v = qkv
    layout = lay_out(range(LENGTH), range(LENGTH), 40, (0, 20), ScopeBias(0.0, 50.0), like=q)
    plain = lay_out(range(LENGTH), range(LENGTH), 40, (), ScopeBias(), like=q)
    assert torch.equal(dual_scope_attention(q, k, v, layout), dual_scope_attention(q, k, v, plain))


def test_whole_scope_without_bias_needs_no_mask() -> None:
    layout = lay_out(range(9), range(9), 8, (0, 4), ScopeBias(), like=torch.ones(1))
    assert layout.far is None
    assert [block.mask_QK for block in layout.inner] == [None]


PARTS = {"halo on both sides": (9, 20), "first clip": (0, 12), "last clip": (30, 41)}


@pytest.mark.parametrize("clip", PARTS)
def test_inner_blocks_need_nothing_that_travels(
    clip: str, qkv: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are complete before the received frames are there, which then change the others."""
    q, k, v = qkv
    start, stop = PARTS[clip]
    context = (0, 8, 16, 24, 32)
    near = range(max(0, start - 2), min(LENGTH, stop + 2))
    keys = sorted({*near, *context})
    before, after = ([f for f in keys if side(f)] for side in (start.__gt__, stop.__le__))
    layout = lay_out(range(start, stop), keys, 2, context, ScopeBias(), like=q, block_frames=3)
    assert layout.inner and layout.outer
    calls: list[torch.Tensor] = []
    attend = attention.attend

    def noting(*arguments: Any) -> Any:
        calls.append(arguments[0])
        return attend(*arguments)

    monkeypatch.setattr(attention, "attend", noting)
    clip_attention = DualScopeAttention(q[:, start:stop], layout)
    clip_attention.attend_inner(k[:, start:stop], v[:, start:stop])
    assert len(calls) == len(layout.inner)
    sides = [side for side in (before, list(range(start, stop)), after) if side]
    parts = [FramesAtHand([x[:, side] for side in sides], 1) for x in (k, v)]
    ours = clip_attention.finish(*parts)
    assert len(calls) == len(layout.inner) + len(layout.outer) + 1
    expected = dense(q, k, v, 2, context, ScopeBias())[:, start:stop]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_and_formula_agree(qkv: tuple[torch.Tensor, ...], dtype: torch.dtype) -> None:
    """The one that a device without a fitting kernel takes is the same."""
    q, k, v = (x.to(dtype) for x in qkv)
    mask = torch.zeros(LENGTH, LENGTH, dtype=dtype).masked_fill_(
        torch.ones(LENGTH, LENGTH).tril(-1) > 0, -math.inf
    )
    out, lse = attention.attend(q, k, v, mask, 0.3)
    by_hand = attention.by_formula(*(x.transpose(1, 2) for x in (q, k, v)), mask, 0.3)
    torch.testing.assert_close(out, by_hand[0].transpose(1, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse.to(dtype), by_hand[1], rtol=1e-5, atol=1e-5)


def test_scopes_merged_without_their_weights_would_be_wrong(
    qkv: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = qkv
    attend = attention.attend

    def unweighted(*arguments: Any) -> Any:
        out, lse = attend(*arguments)
        return out, torch.zeros_like(lse)

    monkeypatch.setattr(attention, "attend", unweighted)
    layout = lay_out(range(LENGTH), range(LENGTH), 3, (0, 40), ScopeBias(), like=q)
    wrong = dual_scope_attention(q, k, v, layout)
    expected = dense(q, k, v, 3, (0, 40), ScopeBias())
    assert float((wrong - expected).abs().max()) > 0.1


def test_nothing_is_quadratic_in_length() -> None:
    """Masks of all blocks together grow in proportion to the frames."""

    def mask_values(length: int) -> int:
        layout = lay_out(
            range(length),
            tuple(range(length)),
            8,
            tuple(k * length // 16 for k in range(16)),
            ScopeBias(),
            like=torch.ones(1),
        )
        b = attention.QUERY_BLOCK_FRAMES
        masks = [block.mask_QK for block in layout.inner if block.mask_QK is not None]
        assert all(mask.shape[1] <= b + 2 * 8 for mask in masks)
        assert layout.far is not None and layout.far.mask_QG is not None
        assert layout.far.mask_QG.shape == (length, 16)
        return sum(mask.numel() for mask in masks) + layout.far.mask_QG.numel()

    assert mask_values(4096) / mask_values(1024) == pytest.approx(4.0, rel=0.02)
