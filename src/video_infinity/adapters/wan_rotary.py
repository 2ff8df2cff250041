"""Wan's rotary embedding, taken apart into space and time, at any position in time.

diffusers' module has a table of 1,024 positions that starts at frame 0. Rotations in space and in
time act on channels of their own, so that a key can be turned in space where it is made and in
time where it is read.

Legend: B batch, F frames, P tokens of a frame, H heads, D head channels, C channels of one axis
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import nn

Table = tuple[torch.Tensor, torch.Tensor]
"""Cosine and sine, each float32 [..., C], every value there twice."""


class TimelineRotary(nn.Module):
    """In the place of a transformer's `rope`: hands the attention a `WanRotary`."""

    def __init__(self, rope: WanRotaryPosEmbed, trained_frames: int) -> None:
        super().__init__()
        self.rope, self._trained_frames = rope, trained_frames

    def forward(self, z_BCFHW: torch.Tensor) -> WanRotary:
        _, rows, columns = self.rope.patch_size
        return WanRotary(
            self.rope,
            z_BCFHW.shape[3] // rows,
            z_BCFHW.shape[4] // columns,
            self._trained_frames,
            z_BCFHW.device,
        )


class WanRotary:
    """The rotations of one size of picture; see `context.frames.Rotary`."""

    def __init__(
        self,
        rope: WanRotaryPosEmbed,
        rows: int,
        columns: int,
        trained_frames: int,
        device: torch.device,
    ) -> None:
        self.trained_frames = trained_frames
        self._time_channels = rope.t_dim

        def table(channels: int, count: int) -> Table:
            return _table(channels, torch.arange(count, dtype=torch.float64, device=device))

        def over_picture(by_row: torch.Tensor, by_column: torch.Tensor) -> torch.Tensor:
            parts = (
                by_row[:, None].expand(-1, columns, -1),
                by_column[None].expand(rows, -1, -1),
            )
            return torch.cat(parts, -1).flatten(0, 1)

        by_row, by_column = table(rope.h_dim, rows), table(rope.w_dim, columns)
        cos, sin = (over_picture(*pair) for pair in zip(by_row, by_column, strict=True))
        self._space = cos, sin

    def time_table(self, position: torch.Tensor) -> Table:
        """Angles of float64 positions [...]."""
        cos, sin = _table(self._time_channels, position.flatten())
        shape = (*position.shape, self._time_channels)
        return cos.view(shape), sin.view(shape)

    def in_space(self, x_BFPHD: torch.Tensor) -> torch.Tensor:
        cos_PC, sin_PC = self._space
        still, moved = x_BFPHD.split([self._time_channels, cos_PC.shape[-1]], -1)
        turned = rotate(moved, cos_PC[:, None], sin_PC[:, None])
        return torch.cat((still, turned), -1)

    def in_time(self, x_PHD: torch.Tensor, table: Table) -> torch.Tensor:
        cos, sin = (t[..., None, None, :] for t in table)
        moved, still = x_PHD.split([self._time_channels, x_PHD.shape[-1] - self._time_channels], -1)
        return torch.cat((rotate(moved, cos, sin), still), -1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring pairs of channels by their angles. Computed in float32, returned as x.

    cos, sin  [..., C], each value there twice
    Source: Su et al. (2021), equation 34.
    """
    pairs = x.unflatten(-1, (-1, 2))
    first, second = pairs.unbind(-1)
    c, s = cos[..., 0::2], sin[..., 0::2]
    turned = torch.stack((first * c - second * s, first * s + second * c), -1)
    return turned.flatten(-2).to(x.dtype)


def _table(channels: int, position_N: torch.Tensor) -> Table:
    """Angles by diffusers' own formula; the module's buffers may be elsewhere, or have an end."""
    cos, sin = get_1d_rotary_pos_embed(
        channels,
        position_N,
        use_real=True,
        repeat_interleave_real=True,
        freqs_dtype=torch.float64,
    )
    return cos.float(), sin.float()


def check_formula(rope: Any) -> bool:
    """Whether this module's formula gives what a model's own table holds."""
    count = min(16, len(rope.freqs_cos))
    positions = torch.arange(count, dtype=torch.float64, device=rope.freqs_cos.device)
    tables = [_table(channels, positions) for channels in (rope.t_dim, rope.h_dim, rope.w_dim)]
    tolerance = 1e-6 if rope.freqs_cos.dtype == torch.float32 else 1e-2
    return all(
        bool(torch.allclose(torch.cat(ours, -1), own[:count].float(), atol=tolerance))
        for ours, own in zip(
            zip(*tables, strict=True), (rope.freqs_cos, rope.freqs_sin), strict=True
        )
    )
