"""A convolution over time alone, as the two-dimensional one that it is. Pure.

Legend: N batch, C channels, F frames, H height, W width
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.overrides import TorchFunctionMode


class _TimeAsHeight(TorchFunctionMode):
    """Inside the `with`, kernels [k, 1, 1] convolve [N, C, F, H * W] instead of [N, C, F, H, W].

    On a CPU that takes a third of the time and no copy of the input for every place of the
    kernel, whose size grows with the video.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.conv3d or kwargs:
            return func(*args, **(kwargs or {}))
        x_NCFHW, weight, bias, stride, padding, dilation, groups = args
        if isinstance(padding, str):  # "same" and "valid" go their own way
            return func(*args)
        over_space = weight.shape[3:], stride[1:], padding[1:], dilation[1:]
        if [list(map(int, size)) for size in over_space] != [[1, 1], [1, 1], [0, 0], [1, 1]]:
            return func(*args)
        out = F.conv2d(
            x_NCFHW.flatten(3),
            weight.squeeze(-1),
            bias,
            (stride[0], 1),
            (padding[0], 0),
            (dilation[0], 1),
            groups,
        )
        return out.unflatten(3, x_NCFHW.shape[3:])


def convolve_over_time(conv: nn.Module, x_NCFHW: torch.Tensor) -> torch.Tensor:
    """conv(x), which may be any module around convolutions over time."""
    with _TimeAsHeight():
        convolved: torch.Tensor = conv(x_NCFHW)
    return convolved
