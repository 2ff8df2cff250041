"""What one latent frame costs in bytes on the wire and in memory, by tracing shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from video_infinity.comm import SingleCommunicator
from video_infinity.context.install import Sites, installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.plan import Plan, Scopes, split_timeline

TRACED_FRAMES = 24
"""Enough for the share of a clip's ends to be small; the cost of tracing grows with it."""


@dataclass(frozen=True)
class Footprint:
    """Numbers (not bytes) per latent frame and per video of the guidance batch.

    attention_values   keys and values of all temporal attention layers
    conv_values        inputs of all temporal convolutions
    moment_values      mean and variance of all timeline norms, per rank (not per frame)
    workspace_values   tensors alive at once at the widest point of one pass
    num_weights        of the parts that every rank holds
    num_text_weights   of the text encoder, on rank 0
    """

    attention_values: int
    conv_values: int
    moment_values: int
    workspace_values: int
    num_weights: int
    num_text_weights: int


class _Shapes:
    """Values seen at the sites during one pass over one frame."""

    def __init__(self) -> None:
        self.attention = self.conv = self.moments = 0

    def at_attention(self, module: Any, arguments: Any, options: Any) -> None:
        hidden = arguments[0] if arguments else options["hidden_states"]
        tokens = hidden.shape[0] * hidden.shape[1]  # of one frame, in either layout
        self.attention += 2 * tokens * module.to_k.out_features

    def at_conv(self, module: Any, arguments: Any) -> None:
        self.conv += arguments[0].numel()
        self.moments += 2 * module[0].num_groups

    def at_norm(self, module: Any, arguments: Any) -> None:
        self.moments += 2 * module.num_groups


class _PeakOfLive(TorchDispatchMode):
    """Most values alive at once among those that operations make inside the `with`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.live_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes


def trace(
    sites: Sites,
    run: Callable[[int], Any],
    text_SD: torch.Tensor,
    num_weights: int,
    num_text_weights: int,
) -> Footprint:
    """The footprint of a denoiser.

    run      pass one video of that many frames through it, in float32
    text_SD  text states of one frame
    The denoiser may hold fake tensors: only shapes matter.
    """
    seen = _Shapes()
    with ExitStack() as stack, torch.no_grad():
        for attention in (*sites.attention, *sites.frame_attention):
            assert isinstance(attention, nn.Module)
            hook = attention.register_forward_pre_hook(seen.at_attention, with_kwargs=True)
            stack.callback(hook.remove)
        for site in sites.convs:
            stack.callback(site.module.register_forward_pre_hook(seen.at_conv).remove)
        for site in sites.norms:
            stack.callback(site.module.register_forward_pre_hook(seen.at_norm).remove)
        run(1)
    return Footprint(
        attention_values=seen.attention,
        conv_values=seen.conv,
        moment_values=seen.moments,
        workspace_values=_workspace_values(sites, run, text_SD),
        num_weights=num_weights,
        num_text_weights=num_text_weights,
    )


def _workspace_values(sites: Sites, run: Callable[[int], Any], text_SD: torch.Tensor) -> int:
    plan = Plan(split_timeline(TRACED_FRAMES, 1), Scopes(TRACED_FRAMES, 0))
    text = FrameText(text_SD[None], ((0,) * TRACED_FRAMES,))
    context = ClipContext(SingleCommunicator(), plan, text)
    with torch.no_grad(), installed(sites, context), _PeakOfLive() as peak:
        run(TRACED_FRAMES)
    return int(peak.peak_bytes) // torch.float32.itemsize // TRACED_FRAMES
