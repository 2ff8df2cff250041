"""Dual-scope attention over frames of tokens, against a dense softmax written out here.

Legend: B batch, F frames, P tokens of a frame, H heads, D head channels
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from video_infinity.context import frames
from video_infinity.context.frames import (
    FrameBlock,
    dual_scope_frame_attention,
    frame_blocks,
    lay_out_frames,
    near_offsets,
)
from video_infinity.context.text import FrameText
from video_infinity.plan import Plan, Scopes, clips_of_lengths

TRAINED = 21


class TurnedByFrame:
    """A rotary embedding that turns every pair of channels by a tenth of its position."""

    trained_frames = TRAINED

    def time_table(self, position: torch.Tensor) -> torch.Tensor:
        return position / 10

    def in_space(self, x_BFPHD: torch.Tensor) -> torch.Tensor:
        return x_BFPHD

    def in_time(self, x_PHD: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        angle = table[..., None, None, None]
        first, second = x_PHD.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = angle.cos(), angle.sin()
        turned = torch.stack((first * cos - second * sin, first * sin + second * cos), -1)
        return turned.flatten(-2)


ROTARY = TurnedByFrame()


# Where far keys are brought.


@pytest.mark.parametrize("local_frames", [0, 1, 3, 8, 19])
@pytest.mark.parametrize("length", [22, 61, 1025, 5000])
def test_far_keys_keep_their_side_and_come_within_the_trained_range(
    length: int, local_frames: int
) -> None:
    distance = np.arange(local_frames + 1, length)
    for side in (-1, 1):
        near = near_offsets(side * distance, length, local_frames, TRAINED)
        assert (np.sign(near) == side).all()
        assert (np.abs(near) > local_frames).all(), "a local key stands there"
        assert (np.abs(near) <= TRAINED - 1).all()


@pytest.mark.parametrize("local_frames", [0, 1, 3, 8, 19, 40])
def test_order_is_kept_and_nothing_jumps_where_the_local_scope_ends(local_frames: int) -> None:
    """From a local key to the next one, which is far, it is one frame, as it was."""
    near = near_offsets(np.arange(local_frames + 1, 5000), 5000, local_frames, TRAINED)
    assert near[0] == local_frames + 1
    assert (np.diff(near) >= 0).all()


@pytest.mark.parametrize("length", [1, 2, 20, TRAINED])
def test_a_video_within_the_trained_range_stays_as_it_is(length: int) -> None:
    offset = np.arange(1 - length, length)
    near = near_offsets(offset, length, min(3, length - 1), TRAINED)
    assert (near == offset).all()


def test_where_a_far_key_stands_does_not_depend_on_the_other_keys() -> None:
    """Nor on the block of queries: each offset by itself gives what all of them give."""
    offset = np.concatenate([np.arange(-4999, -8), np.arange(9, 5000)])
    together = near_offsets(offset, 5000, 8, TRAINED)
    apart = [near_offsets(offset[k : k + 1], 5000, 8, TRAINED)[0] for k in range(len(offset))]
    assert together.tolist() == apart


# Which frames a query reads.


def dual_scope(
    i: int, length: int, local_frames: int, global_context: Sequence[int]
) -> tuple[list[int], list[int]]:
    """N(i), and G without it."""
    near = [j for j in range(length) if abs(i - j) <= local_frames]
    return near, [j for j in global_context if j not in near]


def keys_of(block: FrameBlock, at_hand: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Near and far frames of every query of a block."""
    count = block.stop - block.start
    if isinstance(block.near_QN, slice):
        near = [list(at_hand)[block.near_QN]] * count
    else:
        near = [[at_hand[index] for index in row] for row in block.near_QN.tolist()]
    rows = [[]] * count if block.far_QM is None else block.far_QM.tolist()
    return list(zip(near, [[at_hand[index] for index in row] for row in rows], strict=True))


GLOBAL_CONTEXTS = {"none": (), "the first": (0,), "some": (0, 11, 12, 29, 40)}
LENGTH = 41


@pytest.mark.parametrize("block_frames", [1, 3, 100])
@pytest.mark.parametrize("local_frames", [0, 2, 8, 40])
@pytest.mark.parametrize("name", GLOBAL_CONTEXTS)
@pytest.mark.parametrize("lengths", [(41,), (1, 40), (7, 20, 14)])
def test_every_query_reads_its_scopes_each_frame_once(
    lengths: tuple[int, ...], name: str, local_frames: int, block_frames: int
) -> None:
    global_context = GLOBAL_CONTEXTS[name]
    for clip in clips_of_lengths(lengths):
        scopes = {i: dual_scope(i, LENGTH, local_frames, global_context) for i in clip.frames}
        at_hand = sorted({j for near, far in scopes.values() for j in (*near, *far)})
        blocks = frame_blocks(
            clip.frames,
            at_hand,
            local_frames,
            global_context,
            length=LENGTH,
            rotary=ROTARY,
            device=torch.device("cpu"),
            block_frames=block_frames,
        )
        bounds = [(block.start, block.stop) for block in blocks]
        assert bounds[0][0] == 0 and bounds[-1][1] == len(clip)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        read = [keys for block in blocks for keys in keys_of(block, at_hand)]
        assert read == [scopes[i] for i in clip.frames]
        for block in blocks:
            alike = isinstance(block.near_QN, slice)
            assert alike or block.stop - block.start <= block_frames
            if block.far_QM is not None:
                queries = [clip.start + i for i in range(block.start, block.stop)]
                expected = [
                    i + near_offsets(np.array(scopes[i][1]) - i, LENGTH, local_frames, TRAINED)
                    for i in queries
                ]
                np.testing.assert_array_equal(block.far_table * 10, np.stack(expected))


def test_a_scope_over_everything_is_one_block() -> None:
    """However many frames: a dense kernel runs once, with nothing gathered."""
    (block,) = frame_blocks(
        range(7, 20),
        range(LENGTH),
        LENGTH,
        (0, 20),
        length=LENGTH,
        rotary=ROTARY,
        device=torch.device("cpu"),
        block_frames=2,
    )
    assert block == FrameBlock(0, 13, slice(0, LENGTH))


# The attention.

BATCH, TOKENS, HEADS, CHANNELS = 2, 3, 2, 4


def random_frames(num_frames: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, num_frames, TOKENS, HEADS, CHANNELS)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64) * gain for gain in (3, 1, 1)
    )


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None) -> torch.Tensor:
    """softmax(q k^T * scale) v over [batch, tokens, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def dense(
    qkv_BFPHD: tuple[torch.Tensor, ...], plan: Plan, near_bias: float, far_bias: float
) -> torch.Tensor:
    """Query by query, key by key, with a mask of minus infinity and a bias."""
    q_BFPHD, k_BFPHD, v_BFPHD = qkv_BFPHD
    length, h = plan.num_latent_frames, plan.local_frames
    out_BFPHD = torch.empty_like(q_BFPHD)
    for i in range(length):
        place, mask = torch.zeros(length, dtype=torch.float64), torch.full((length,), -torch.inf)
        for j in range(length):
            place[j] = j
            if abs(i - j) <= h:
                mask[j] = near_bias
            elif j in plan.global_context:
                place[j] = i + float(near_offsets(np.array([j - i]), length, h, TRAINED)[0])
                mask[j] = far_bias
        k = ROTARY.in_time(k_BFPHD, place / 10)
        q = ROTARY.in_time(q_BFPHD[:, i], torch.tensor(i / 10, dtype=torch.float64))
        logits = torch.einsum("bphd,bfkhd->bhpfk", q, k) / CHANNELS**0.5
        logits = logits + mask[:, None]
        weights = logits.flatten(3).softmax(-1).view_as(logits)
        out_BFPHD[:, i] = torch.einsum("bhpfk,bfkhd->bphd", weights, v_BFPHD)
    return out_BFPHD


def on_clips(
    qkv_BFPHD: tuple[torch.Tensor, ...], plan: Plan, far_bias: float = 0.0
) -> torch.Tensor:
    """Clip by clip, each with the frames that its rank would have at hand."""
    q_BFPHD, k_BFPHD, v_BFPHD = qkv_BFPHD
    parts = []
    for rank, clip in enumerate(plan.clips):
        transfers = plan.attention_transfers()
        received = {j for t in transfers if t.target == rank for j in t.frames}
        at_hand = sorted(received.union(clip.frames))
        layout = lay_out_frames(plan, clip, at_hand, ROTARY, TOKENS, torch.device("cpu"))
        q = q_BFPHD[:, clip.start : clip.stop]
        parts.append(
            dual_scope_frame_attention(
                ROTARY.in_time(q, layout.query_table),
                k_BFPHD[:, at_hand],
                v_BFPHD[:, at_hand],
                layout.key_table,
                layout.blocks,
                rotary=ROTARY,
                attend=plain,
                far_bias=far_bias,
            )
        )
    return torch.cat(parts, 1)


SCOPES = {
    "both scopes": Scopes(2, 4),
    "local alone": Scopes(3, 0),
    "global alone": Scopes(0, 5),
    "everything": Scopes(100, 3),
    "rotating": Scopes(2, 4, "rotating", keeps_first=True),
}


@pytest.mark.parametrize("block_tokens", [1, 4 * TOKENS, 2048])
@pytest.mark.parametrize("bias", [(0.0, 0.0), (0.0, 1.7), (2.5, 0.0)])
@pytest.mark.parametrize("name", SCOPES)
def test_attention_is_a_dense_softmax_with_a_mask(
    name: str, bias: tuple[float, float], block_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bias per scope, which travels as one more channel, is what is added to the logits."""
    monkeypatch.setattr(frames, "BLOCK_TOKENS", block_tokens)
    plan = Plan(clips_of_lengths((1, 17, 12)), SCOPES[name], shift=7)
    qkv_BFPHD = random_frames(plan.num_latent_frames)
    expected = dense(qkv_BFPHD, plan, *bias)
    torch.testing.assert_close(
        on_clips(qkv_BFPHD, plan, bias[1] - bias[0]), expected, rtol=0, atol=1e-12
    )


def test_bias_and_far_positions_do_count() -> None:
    plan = Plan(clips_of_lengths((30,)), SCOPES["both scopes"])
    qkv_BFPHD = random_frames(30)
    without = on_clips(qkv_BFPHD, plan)
    assert (on_clips(qkv_BFPHD, plan, 1.7) - without).abs().max() > 0.1


def test_without_a_bias_heads_do_not_grow() -> None:
    """The channel that carries it is there when it is wanted, and else no kernel pays for it."""
    plan, widths = Plan(clips_of_lengths((30,)), SCOPES["both scopes"]), set()

    def watched(q: torch.Tensor, *rest: Any) -> torch.Tensor:
        widths.add(q.shape[-1])
        return plain(q, *rest)

    q, k, v = random_frames(30)
    layout = lay_out_frames(plan, plan.clips[0], range(30), ROTARY, TOKENS, torch.device("cpu"))
    for far_bias in (0.0, 1.0):
        dual_scope_frame_attention(
            q,
            k,
            v,
            layout.key_table,
            layout.blocks,
            rotary=ROTARY,
            attend=watched,
            far_bias=far_bias,
        )
        assert widths == {CHANNELS} if not far_bias else {CHANNELS, CHANNELS + 8}


@pytest.mark.parametrize("length", [61, 122])
def test_a_query_reads_no_more_in_a_longer_video(length: int) -> None:
    plan = Plan(clips_of_lengths((length,)), Scopes(3, 4))
    layout = lay_out_frames(plan, plan.clips[0], range(length), ROTARY, TOKENS, torch.device("cpu"))
    read = [keys for block in layout.blocks for keys in keys_of(block, range(length))]
    assert max(len(near) + len(far) for near, far in read) == 3 + 1 + 3 + 4


# Text.


def test_frames_of_equal_text_are_one_run_and_branches_follow_each_other() -> None:
    text = FrameText(torch.arange(3.0).view(3, 1, 1), ((2, 2, 2, 2), (0, 0, 1, 0)))
    assert text.runs == ((2, 0, 4), (0, 4, 6), (1, 6, 7), (0, 7, 8))
    assert text.num_branches == 2
    assert text.first_frames_BSD.flatten().tolist() == [2, 0]


def test_one_prompt_without_guidance_is_one_run() -> None:
    assert FrameText(torch.zeros(1, 1, 1), ((0,) * 9,)).runs == ((0, 0, 9),)
