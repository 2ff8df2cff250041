"""What one latent frame costs in bytes on the wire and in memory, by tracing shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from video_infinity.context.install import Sites


@dataclass(frozen=True)
class Footprint:
    """Numbers (not bytes) per latent frame and per video of the guidance batch.

    attention_values   keys and values of all temporal attention layers
    conv_values        inputs of all temporal convolutions
    moment_values      mean and variance of all timeline norms, per rank (not per frame)
    workspace_values   what the layers hold at once at the widest point: an estimate
    num_weights        of all parts of the model
    """

    attention_values: int
    conv_values: int
    moment_values: int
    workspace_values: int
    num_weights: int


class _Trace:
    """Shapes seen at the sites during one pass."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.attention = self.conv = self.moments = self.widest = 0

    def at_attention(self, module: Any, arguments: Any, options: Any) -> None:
        hidden = arguments[0] if arguments else options["hidden_states"]
        sequences, frames, _ = hidden.shape
        self.attention += 2 * sequences * module.to_k.out_features
        self.widest = max(self.widest, hidden.numel() // frames)

    def at_conv(self, module: Any, arguments: Any) -> None:
        self.conv += arguments[0].numel() // self.num_frames
        self.moments += 2 * module[0].num_groups

    def at_norm(self, module: Any, arguments: Any) -> None:
        self.moments += 2 * module.num_groups


_LIVE_AT_WIDEST = 15
"""Of a temporal block's hidden size: input, residual, norm, and 8 + 4 in its gated feed-forward."""


def trace(sites: Sites, run: Callable[[], Any], num_frames: int, num_weights: int) -> Footprint:
    """The footprint of a denoiser whose `run` passes one video of `num_frames` through it.

    The denoiser may live on the meta device: nothing is computed.
    """
    seen = _Trace(num_frames)
    with ExitStack() as stack, torch.inference_mode():
        for attention in sites.attention:
            assert isinstance(attention, nn.Module)
            hook = attention.register_forward_pre_hook(seen.at_attention, with_kwargs=True)
            stack.callback(hook.remove)
        for site in sites.convs:
            stack.callback(site.module.register_forward_pre_hook(seen.at_conv).remove)
        for site in sites.norms:
            stack.callback(site.module.register_forward_pre_hook(seen.at_norm).remove)
        run()
    return Footprint(
        attention_values=seen.attention,
        conv_values=seen.conv,
        moment_values=seen.moments,
        workspace_values=_LIVE_AT_WIDEST * seen.widest,
        num_weights=num_weights,
    )
