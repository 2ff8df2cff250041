"""Group-norm moments over the whole timeline, from those of the ranks' clips. Pure.

Legend: R ranks, N batch, G groups, C channels, F frames, H height, W width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from video_infinity.errors import PlanError

FRAME_DIM = 2
"""Frames in [N, C, F, H, W]."""


def clip_moments(x_NCFHW: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Mean and biased variance of every group over one clip.

    Returns [2, N, G] in float32, or in the type of x if that is wider.
    """
    wide = torch.promote_types(x_NCFHW.dtype, torch.float32)
    batch, channels = x_NCFHW.shape[:2]
    positions = x_NCFHW[0, 0].numel()
    # PyTorch's own pass over a group norm's input: twenty times as fast here as var_mean.
    _, mean_NG, rstd_NG = torch.native_group_norm(
        x_NCFHW.to(wide).contiguous(), None, None, batch, channels, positions, num_groups, 0.0
    )
    return torch.stack((mean_NG, rstd_NG.square().reciprocal()))


def merge_moments(
    count_R: torch.Tensor, mean_RNG: torch.Tensor, var_RNG: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine per-rank group-norm moments into those of the whole timeline.

    count_R             weights: elements (or frames, where all frames are alike in size)
    mean_RNG, var_RNG   mean and biased variance of each rank's clip, float32 or wider
    Returns mean_NG and the biased var_NG, as torch.nn.GroupNorm uses it.
    Raises PlanError if the leading sizes differ.
    Source: Chan, Golub & LeVeque (1983).
    """
    if not len(count_R) == len(mean_RNG) == len(var_RNG):
        raise PlanError(
            f"moments of {len(count_R)}, {len(mean_RNG)} and {len(var_RNG)} ranks do not match"
        )
    count_R11 = count_R.to(mean_RNG)[:, None, None]
    share_R11 = count_R11 / count_R11.sum()
    mean_NG = (share_R11 * mean_RNG).sum(0)
    var_NG = (share_R11 * (var_RNG + (mean_RNG - mean_NG).square())).sum(0)
    return mean_NG, var_NG


class _GivenMoments(TorchFunctionMode):
    """Inside the `with`, a group norm of several parts of one video, with these moments.

    It returns the parts in one tensor, side by side along their frames.
    """

    def __init__(
        self, parts_NCFHW: Sequence[torch.Tensor], mean_NG: torch.Tensor, var_NG: torch.Tensor
    ) -> None:
        super().__init__()
        self._parts, self._mean_NG, self._var_NG = parts_NCFHW, mean_NG, var_NG

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is not torch.nn.functional.group_norm:
            return func(*args, **named)
        x_NCFHW, num_groups = args
        repeat = x_NCFHW.shape[1] // num_groups
        scale_NC = (self._var_NG + named["eps"]).rsqrt().repeat_interleave(repeat, dim=1)
        mean_NC = self._mean_NG.repeat_interleave(repeat, dim=1)
        if named["weight"] is not None:
            scale_NC = scale_NC * named["weight"]
        shift_NC = -mean_NC * scale_NC
        if named["bias"] is not None:
            shift_NC = shift_NC + named["bias"]
        scale, shift = (x[:, :, None, None, None] for x in (scale_NC, shift_NC))
        shape = list(x_NCFHW.shape)
        shape[FRAME_DIM] = sum(part.shape[FRAME_DIM] for part in self._parts)
        wide, offset = x_NCFHW.new_empty(shape), 0
        for part in self._parts:
            count = part.shape[FRAME_DIM]
            torch.addcmul(shift, part, scale, out=wide.narrow(FRAME_DIM, offset, count))
            offset += count
        return wide


def apply_group_norm(
    parts_NCFHW: Sequence[torch.Tensor],
    mean_NG: torch.Tensor,
    var_NG: torch.Tensor,
    norm: torch.nn.GroupNorm,
) -> torch.Tensor:
    """Normalise parts of one video with given moments, by a call of the norm itself.

    Its parameters may come only with the call, where weights are offloaded. Returns the parts
    side by side along their frames.
    """
    with _GivenMoments(parts_NCFHW, mean_NG, var_NG):
        normed: torch.Tensor = norm(parts_NCFHW[0])
    return normed
