"""What one latent frame costs in bytes on the wire and in memory, by tracing shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from video_infinity.comm import Communicator, Message
from video_infinity.comm.base import Done, Pending
from video_infinity.context.attention import Layout
from video_infinity.context.frames import FrameLayout, Rotary
from video_infinity.context.install import Sites, installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.context.workspace import Workspace
from video_infinity.memory import GIVEN_BACK_FROM_BYTES, KEPT_BYTES
from video_infinity.plan import Plan


@dataclass(frozen=True)
class Workload:
    """One pass of one rank, whose memory is asked for.

    batch        branches of guidance in the pass
    value_bytes  of one number
    device_type  which decides how much of a layer goes at a time
    """

    plan: Plan
    rank: int
    batch: int
    value_bytes: int
    device_type: str


@dataclass(frozen=True)
class Footprint:
    """Numbers (not bytes) per latent frame and per video of the guidance batch.

    attention_values   keys and values of all temporal attention layers
    conv_values        inputs of all temporal convolutions
    moment_values      mean and variance of all timeline norms, per rank (not per frame)
    num_weights        of the parts that every rank holds
    num_text_weights   of the text encoder, on rank 0
    peak_bytes         for each workload that was asked for: tensors alive at once at the widest
                       point of one pass, and on a CPU what the allocator keeps of earlier ones
    """

    attention_values: int
    conv_values: int
    moment_values: int
    num_weights: int
    num_text_weights: int
    peak_bytes: tuple[int, ...] = ()


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


class _Live(TorchDispatchMode):
    """What is alive, in bytes, after every operation inside the `with`.

    small, large  in tensors below and from `large_from` bytes on
    moments       all values that the pair had
    """

    def __init__(self, large_from: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.small = self.large = 0
        self.moments: list[tuple[int, int]] = [(0, 0)]
        self._large_from = large_from
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
        self._add(storage.nbytes(), 1)
        self.moments.append((self.small, self.large))
        weakref.finalize(storage, self._add, storage.nbytes(), -1)

    def _add(self, num_bytes: int, times: int) -> None:
        if num_bytes >= self._large_from:
            self.large += times * num_bytes
        else:
            self.small += times * num_bytes

    def peak_bytes(self, kept_bytes: float) -> float:
        """The most that a process holds whose heap has been as wide as it gets.

        kept_bytes  of a heap that was wider before, what is not given back to the system
        """
        widest = max(small for small, _ in self.moments)
        return max(min(widest, small + kept_bytes) + large for small, large in self.moments)


class _Nowhere(Communicator):
    """A rank of many whose messages go nowhere and are never waited for."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def _subgroup(self, own: Sequence[int]) -> Communicator:
        raise AssertionError("one pass of a denoiser makes no groups")

    def _post(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        return Done()

    def _gather(self, local: torch.Tensor) -> tuple[torch.Tensor, Pending]:
        return local.new_empty((self.size, *local.shape)), Done()

    def barrier(self) -> None:
        return None


class _TablesByShape:
    """A rotary embedding whose tables are right in shape alone: each is made once."""

    def __init__(self, rotary: Rotary) -> None:
        self.trained_frames, self._rotary = rotary.trained_frames, rotary
        self.in_space, self.in_time = rotary.in_space, rotary.in_time
        self._made: dict[torch.Size, Any] = {}

    def time_table(self, position: torch.Tensor) -> Any:
        """A table for as many positions, whichever came first."""
        if position.shape not in self._made:
            self._made[position.shape] = self._rotary.time_table(position)
        return self._made[position.shape]


class _FirstBlocks(ClipContext):
    """A context in which attention does a few of its blocks, of each kind the first."""

    def layout(self, like: torch.Tensor) -> Layout:
        layout = super().layout(like)
        return replace(layout, inner=layout.inner[:1], outer=layout.outer[:1])

    def frame_layout(self, rotary: Rotary, tokens: int, device: torch.device) -> FrameLayout:
        layout = super().frame_layout(_TablesByShape(rotary), tokens, device)
        by_kind = {(b.stop - b.start, b.far_QM is None): b for b in layout.blocks}
        return replace(layout, blocks=tuple(by_kind.values()))


def trace(
    sites: Sites,
    run: Callable[[int, int], Any],
    text_SD: torch.Tensor,
    num_weights: int,
    num_text_weights: int,
    workloads: Sequence[Workload] = (),
) -> Footprint:
    """The footprint of a denoiser.

    run      pass that many videos of that many frames through it, in float32
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
        run(1, 1)
    return Footprint(
        attention_values=seen.attention,
        conv_values=seen.conv,
        moment_values=seen.moments,
        num_weights=num_weights,
        num_text_weights=num_text_weights,
        peak_bytes=tuple(_peak_bytes(sites, run, text_SD, load) for load in workloads),
    )


def _peak_bytes(
    sites: Sites, run: Callable[[int, int], Any], text_SD: torch.Tensor, load: Workload
) -> int:
    """Traced in float32: the room of a slice is widened, and the result narrowed, to the type."""
    ratio = torch.float32.itemsize / load.value_bytes
    room = Workspace.of(load.device_type)
    workspace = Workspace(
        int(room.layer_bytes * ratio), int(room.sequence_bytes * ratio), first_alone=True
    )
    clip = load.plan.clips[load.rank]
    text = FrameText(text_SD[None], ((0,) * len(clip),) * load.batch)
    comm = _Nowhere(load.rank, load.plan.num_ranks)
    context = _FirstBlocks(comm, load.plan, text, workspace=workspace)
    on_cpu = load.device_type == "cpu"
    with torch.no_grad(), installed(sites, context), _Live(GIVEN_BACK_FROM_BYTES * ratio) as live:
        run(len(clip), load.batch)
    return int(live.peak_bytes(KEPT_BYTES * ratio if on_cpu else 0) / ratio)
