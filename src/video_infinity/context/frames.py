"""Dual-scope attention over whole frames of tokens, with rotary positions in time. Pure.

A diffusion transformer attends over space and time at once: query frame i reads every token of
the frames in N(i) and of those in G \\ N(i). Near keys stand at their true positions. A far key is
brought to a position within the range that the model was trained on, by a function of i, j, h and L
alone, so that neither clips nor blocks of queries show. Every query reads whole frames: no mask.

Legend: B batch, F frames, P tokens of a frame, H heads, D head channels, Q queries (frames),
N near keys (frames), M far keys (frames)
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from video_infinity.plan import Clip, Plan

BLOCK_TOKENS = 2048
"""Queries per block, in tokens: each brings keys of its own, so that this bounds the workspace."""

PADDED_CHANNELS = 8
"""By how many channels a head grows to carry a bias: kernels want multiples of eight."""


class Rotary(Protocol):
    """A model's rotary embedding, taken apart into space and time.

    trained_frames  latent frames of the videos that the model was trained on
    """

    trained_frames: int

    def time_table(self, position: torch.Tensor) -> Any:
        """What `in_time` needs to turn keys to float64 positions [...]."""

    def in_space(self, x_BFPHD: torch.Tensor) -> torch.Tensor:
        """Turn by each token's place in its frame."""

    def in_time(self, x_PHD: torch.Tensor, table: Any) -> torch.Tensor:
        """Turn [..., P, H, D] by the positions of a table [...]."""


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]
"""softmax(q k^T * scale) v over [batch, tokens, H, D]; scale None is 1 / sqrt(D)."""


@dataclass(frozen=True)
class FrameBlock:
    """Query frames [start, stop) of a clip, and where their keys lie among the frames at hand.

    near_QN   frames at their true positions; a slice if all queries read the same and no other
    far_QM    frames that are brought nearer; None if there are none
    far_table what turns them to where they are brought
    """

    start: int
    stop: int
    near_QN: torch.Tensor | slice
    far_QM: torch.Tensor | None = None
    far_table: Any = None


def near_offsets(
    offset: npt.NDArray[np.int64], length: int, local_frames: int, trained_frames: int
) -> npt.NDArray[np.float64]:
    """Where far keys are brought: offsets j - i to offsets that the model was trained on.

    All stand just outside of the local scope, at h + 1 on their side. A video that is no longer
    than the trained length stays as it is. By measurement: benchmarks/remap.md.
    """
    if length <= trained_frames:
        return offset.astype(np.float64)
    return np.sign(offset) * np.float64(local_frames + 1)


def frame_blocks(
    query_frames: range,
    key_frames: Sequence[int],
    local_frames: int,
    global_context: Sequence[int],
    *,
    length: int,
    rotary: Rotary,
    device: torch.device,
    block_frames: int,
) -> tuple[FrameBlock, ...]:
    """Cut a clip's queries into blocks in which every query has as many near and far keys.

    key_frames  sorted, with every frame that some query may read
    length      L, of the timeline
    """
    place = {frame: index for index, frame in enumerate(key_frames)}

    def near(i: int) -> range:
        first = bisect.bisect_left(key_frames, i - local_frames)
        return range(first, bisect.bisect_right(key_frames, i + local_frames))

    def far(i: int) -> list[int]:
        return [j for j in global_context if abs(i - j) > local_frames]

    def block(queries: Sequence[int]) -> FrameBlock:
        start = queries[0] - query_frames.start
        stop = start + len(queries)
        near_QN, far_QM = [near(i) for i in queries], [far(i) for i in queries]
        if not far_QM[0] and len(set(near_QN)) == 1:
            return FrameBlock(start, stop, slice(near_QN[0].start, near_QN[0].stop))
        near_index = torch.tensor([list(row) for row in near_QN], device=device)
        if not far_QM[0]:
            return FrameBlock(start, stop, near_index)
        query_Q1 = np.asarray(queries)[:, None]
        offset_QM = near_offsets(
            np.asarray(far_QM) - query_Q1, length, local_frames, rotary.trained_frames
        )
        position_QM = torch.from_numpy(query_Q1 + offset_QM).to(device)
        return FrameBlock(
            start,
            stop,
            near_index,
            torch.tensor([[place[j] for j in row] for row in far_QM], device=device),
            rotary.time_table(position_QM),
        )

    blocks = []
    for _, group in itertools.groupby(query_frames, key=lambda i: (len(near(i)), len(far(i)))):
        queries = list(group)
        if not far(queries[0]) and near(queries[0]) == near(queries[-1]):
            blocks.append(block(queries))
        else:
            blocks += [
                block(queries[k : k + block_frames]) for k in range(0, len(queries), block_frames)
            ]
    return tuple(blocks)


@dataclass(frozen=True)
class FrameLayout:
    """What all layers of one step share.

    query_table, key_table  turn queries, and keys of the frames at hand, to true positions
    """

    query_table: Any
    key_table: Any
    blocks: tuple[FrameBlock, ...]


def lay_out_frames(
    plan: Plan,
    clip: Clip,
    key_frames: Sequence[int],
    rotary: Rotary,
    tokens: int,
    device: torch.device,
) -> FrameLayout:
    """The layout of one clip at one step.

    key_frames  at hand, sorted
    tokens      P, of a frame
    """

    def true_positions(frames: Sequence[int]) -> Any:
        return rotary.time_table(torch.tensor(frames, dtype=torch.float64, device=device))

    return FrameLayout(
        true_positions(clip.frames),
        true_positions(key_frames),
        frame_blocks(
            clip.frames,
            key_frames,
            plan.local_frames,
            plan.global_context,
            length=plan.num_latent_frames,
            rotary=rotary,
            device=device,
            block_frames=max(1, BLOCK_TOKENS // tokens),
        ),
    )


def dual_scope_frame_attention(
    q_BFPHD: torch.Tensor,
    k_BFPHD: torch.Tensor,
    v_BFPHD: torch.Tensor,
    key_table: Any,
    blocks: Sequence[FrameBlock],
    *,
    rotary: Rotary,
    attend: Attend,
    far_bias: float = 0.0,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D) + bias) v, block by block: linear in frames.

    q_BFPHD           queries of one clip, turned in space and time
    k_BFPHD, v_BFPHD  keys, turned in space alone, and values of all frames at hand
    key_table         turns the keys to their true positions
    far_bias          added to the logits of far keys
    Returns [B, F, P, H, D].
    """
    tokens, scale = q_BFPHD.shape[2], q_BFPHD.shape[-1] ** -0.5
    near_BFPHD = rotary.in_time(k_BFPHD, key_table)
    out_BFPHD = torch.empty_like(q_BFPHD)
    for block in blocks:
        q = q_BFPHD[:, block.start : block.stop]
        if isinstance(block.near_QN, slice):
            k, v = near_BFPHD[:, block.near_QN], v_BFPHD[:, block.near_QN]
            out = attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), None)
            out_BFPHD[:, block.start : block.stop] = out.unflatten(1, (-1, tokens))
            continue
        index, bias_N = block.near_QN, [0.0] * block.near_QN.shape[1]
        k = near_BFPHD[:, block.near_QN]
        if block.far_QM is not None:
            k_far = rotary.in_time(k_BFPHD[:, block.far_QM], block.far_table)
            k, index = torch.cat((k, k_far), 2), torch.cat((index, block.far_QM), 1)
            bias_N += [far_bias] * block.far_QM.shape[1]
        q, k, v = q.flatten(0, 1), k.flatten(0, 1), v_BFPHD[:, index].flatten(0, 1)
        if any(bias_N):
            q, k, v = _carry_bias(q, k, v, torch.tensor(bias_N).to(k), scale)
        out = attend(q, k.flatten(1, 2), v.flatten(1, 2), scale)
        out = out[..., : q_BFPHD.shape[-1]].unflatten(0, (len(q_BFPHD), -1))
        out_BFPHD[:, block.start : block.stop] = out
    return out_BFPHD


def _carry_bias(
    q_QPHD: torch.Tensor,
    k_QNPHD: torch.Tensor,
    v_QNPHD: torch.Tensor,
    bias_N: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bias per key frame as one more channel of the head: no mask, so that any kernel runs.

    q carries 1 / scale there and k the bias, so that scale * q . k has the bias added.
    """
    q, k, v = (F.pad(x, (0, PADDED_CHANNELS)) for x in (q_QPHD, k_QNPHD, v_QNPHD))
    channel = q_QPHD.shape[-1]
    q[..., channel] = 1 / scale
    k[..., channel] = bias_N[:, None, None]
    return q, k, v
