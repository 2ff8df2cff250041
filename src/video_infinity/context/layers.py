"""What stands in for a model's temporal layers while its video is spread over ranks.

Each takes the place of one declared module or processor, uses that module's own parameters by
calling it, and gives on every clip what the unmodified layer gives on the whole video.

Legend: N batch, C channels, F frames, H height, W width, S sequence (batch x pixels)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from video_infinity.comm import Communicator, Pending
from video_infinity.context.attention import (
    DualScopeAttention,
    Layout,
    ScopeBias,
    lay_out,
)
from video_infinity.context.convolution import convolve_over_time
from video_infinity.context.exchange import (
    Buffers,
    FrameExchange,
    Neighbourhood,
    eager,
)
from video_infinity.context.frames import FrameLayout, Rotary, lay_out_frames
from video_infinity.context.moments import (
    FRAME_DIM,
    apply_group_norm,
    clip_moments,
    merge_moments,
)
from video_infinity.context.text import FrameText
from video_infinity.context.workspace import FramesAtHand, Workspace
from video_infinity.plan import Clip, Plan

P = TypeVar("P")


@dataclass(frozen=True)
class BiasSchedule:
    """The paper's bias by noise level: layout is settled by the whole video, texture nearby.

    Above `switch` (training timestep, 0 to 1000) `global_` is added to the global logits, at
    and below it `local` to the local ones.
    """

    local: float = 0.0
    global_: float = 0.0
    switch: float = 800.0

    def at(self, noise_level: float) -> ScopeBias:
        if noise_level > self.switch:
            return ScopeBias(global_=self.global_)
        return ScopeBias(local=self.local)


@dataclass(frozen=True)
class SharedMoments:
    """Moments of all ranks under way. rows: [ranks, 2, N, G], complete after `wait`."""

    count_R: torch.Tensor
    rows: torch.Tensor
    pending: Pending

    @eager
    def wait(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance [N, G] over the whole timeline."""
        self.pending.wait()
        return merge_moments(self.count_R, self.rows[:, 0], self.rows[:, 1])


@dataclass
class ClipContext:
    """What the temporal layers of one rank share: wire, plan, bias, and text per frame.

    plan       of the step at hand
    workspace  how much of a layer goes at a time
    timestep_K  inside of `timed`, that of every frame of the branches at hand
    """

    comm: Communicator
    plan: Plan
    text: FrameText
    schedule: BiasSchedule = field(default_factory=BiasSchedule)
    workspace: Workspace = field(default_factory=Workspace)
    bias: ScopeBias = field(default_factory=ScopeBias, init=False)
    timestep_K: torch.Tensor | None = field(default=None, init=False)
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    _buffers: Buffers = field(default_factory=Buffers, init=False, repr=False)

    @property
    def clip(self) -> Clip:
        return self.plan.clips[self.comm.rank]

    @property
    def frames_at_hand(self) -> tuple[int, ...]:
        """The frames whose keys one attention layer has: those received and one's own, rising."""
        transfers = self.plan.attention_transfers()
        received = {f for t in transfers if t.target == self.comm.rank for f in t.frames}
        return tuple(sorted(received.union(self.clip.frames)))

    @eager
    def layout(self, like: torch.Tensor) -> Layout:
        """The layout of an attention over time alone, made once for all layers of a step."""
        return self.once(  # type: ignore[no-any-return]
            ("layout", self.bias, like.dtype, like.device),
            lambda: lay_out(
                self.clip.frames,
                self.frames_at_hand,
                self.plan.local_frames,
                self.plan.global_context,
                self.bias,
                like=like,
            ),
        )

    @eager
    def frame_layout(self, rotary: Rotary, tokens: int, device: torch.device) -> FrameLayout:
        """The blocks of an attention over frames of tokens, made once for all layers of a step."""
        return self.once(  # type: ignore[no-any-return]
            ("frame layout", tokens, device),
            lambda: lay_out_frames(
                self.plan, self.clip, self.frames_at_hand, rotary, tokens, device
            ),
        )

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all layers of a plan."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @contextmanager
    def at(self, noise_level: float, step: int = 0) -> Iterator[None]:
        """For one pass, hold the bias of a noise level (training timestep) and a step's plan."""
        before, self.bias = self.bias, self.schedule.at(noise_level)
        self.hold(self.plan.at_step(step))
        try:
            yield
        finally:
            self.bias = before

    def of_each_kind(self, parts: tuple[P, ...]) -> tuple[P, ...]:
        """The parts of a layer's work to do: all, but where only shapes are traced."""
        return parts[:1] if self.workspace.first_alone else parts

    def hold(self, plan: Plan, comm: Communicator | None = None) -> None:
        """From now on, another plan; what was made for the one before goes.

        comm  between its ranks, if they are others than before
        """
        if comm is not None:
            self.comm = comm
        if plan != self.plan:
            self.plan = plan
            self._made.clear()

    @contextmanager
    def reading(self, part: slice) -> Iterator[None]:
        """For a pass over some frames of all branches, hold the text and the times of these."""
        text, timestep_K = self.text, self.timestep_K
        self.text = text.span(part)
        if timestep_K is not None:
            self.timestep_K = timestep_K[part]
        try:
            yield
        finally:
            self.text, self.timestep_K = text, timestep_K

    @contextmanager
    def timed(self, timestep_F: torch.Tensor, num_branches: int) -> Iterator[None]:
        """For one pass, hold a timestep of its own for every frame."""
        self.timestep_K = timestep_F.repeat(num_branches)
        try:
            yield
        finally:
            self.timestep_K = None

    @eager
    def moments(self, x_NCFHW: torch.Tensor, num_groups: int) -> SharedMoments:
        """Start sharing the group-norm moments of a layer's input."""
        own = clip_moments(x_NCFHW, num_groups)
        counts = torch.tensor([len(clip) for clip in self.plan.clips], device=own.device)
        return SharedMoments(counts, *self.comm.gather(own))

    @eager
    def exchange(
        self, own: tuple[torch.Tensor, ...], dim: int, halo_frames: int | None = None
    ) -> FrameExchange:
        """Start the exchange of an attention layer, or of a halo of given width."""
        transfers = (
            self.plan.attention_transfers()
            if halo_frames is None
            else self.plan.halo_transfers(halo_frames)
        )
        return FrameExchange(self.comm, self.clip.frames, transfers, own, dim, self._buffers)


def parts_of(own: torch.Tensor, nth: int, around: Neighbourhood) -> list[torch.Tensor]:
    """The nth exchanged tensor: what came from earlier ranks, one's own, what came from later."""
    sides = [None if side is None else side[nth] for side in (around.left, around.right)]
    return [part for part in (sides[0], own, sides[1]) if part is not None]


class TimelineGroupNorm(nn.Module):
    """GroupNorm whose statistics run over the frames of all ranks. One round: moments."""

    def __init__(self, norm: nn.GroupNorm, context: ClipContext) -> None:
        super().__init__()
        self.norm, self._context = norm, context

    def forward(self, x_NCFHW: torch.Tensor) -> torch.Tensor:
        moments = self._context.moments(x_NCFHW, self.norm.num_groups).wait()
        return apply_group_norm((x_NCFHW,), *moments, self.norm)


class TimelineConvBlock(nn.Module):
    """Norm, activation, convolution over time, as one video. One round: moments and halo.

    The halo is the norm's input, so that it can travel together with the moments. The
    convolution pads with zeros, after norm and activation, only at the video's own ends: frames
    that it computes beyond the inner end of a clip, or of a slice of it, are cut off.
    """

    def __init__(self, block: nn.Sequential, context: ClipContext) -> None:
        super().__init__()
        self.block, self._context = block, context

    @property
    def halo_frames(self) -> int:
        """Frames that the convolution reads on each side."""
        conv = self.block[-1]
        geometry: Any = getattr(conv, "base_layer", conv)  # peft wraps a layer and keeps it there
        assert geometry.stride[0] == 1
        return int((geometry.kernel_size[0] - 1) // 2 * geometry.dilation[0])

    def forward(self, x_NCFHW: torch.Tensor) -> torch.Tensor:
        context, halo_frames, norm = self._context, self.halo_frames, self.block[0]
        assert isinstance(norm, nn.GroupNorm)
        halo = context.exchange((x_NCFHW,), FRAME_DIM, halo_frames)
        moments = context.moments(x_NCFHW, norm.num_groups).wait()
        around = halo.wait()
        at_hand = FramesAtHand(parts_of(x_NCFHW, 0, around), FRAME_DIM)
        first = len(around.left_frames)
        clip = range(first, first + x_NCFHW.shape[FRAME_DIM])
        return self._convolve(at_hand, clip, moments, halo_frames)

    def _convolve(
        self,
        at_hand: FramesAtHand,
        clip: range,
        moments: tuple[torch.Tensor, torch.Tensor],
        halo_frames: int,
    ) -> torch.Tensor:
        """The frames of the clip, a few at a time, each few with a halo on both sides.

        clip  the places of its frames among those at hand
        """
        layers: list[Any] = list(self.block)
        norm, *between, conv = layers
        out = None
        for part in self._context.workspace.slices(len(clip), at_hand.span(0, 1).nbytes):
            first, last = clip[part][0], clip[part][-1] + 1
            start, stop = max(0, first - halo_frames), min(len(at_hand), last + halo_frames)
            wide = apply_group_norm(at_hand.pieces(start, stop), *moments, norm)
            for module in between:
                wide = module(wide)
            convolved = convolve_over_time(conv, wide)
            convolved = convolved.narrow(FRAME_DIM, first - start, last - first)
            if part.stop - part.start == len(clip):
                return convolved
            if out is None:
                shape = list(convolved.shape)
                shape[FRAME_DIM] = len(clip)
                out = convolved.new_empty(shape)
            out[:, :, part] = convolved
        assert out is not None
        return out


class DualScopeProcessor:
    """Attention processor of a temporal self-attention: [S, F, C] over one clip's frames."""

    def __init__(self, context: ClipContext) -> None:
        self._context = context

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        assert encoder_hidden_states is None and attention_mask is None, "not a self-attention"
        context = self._context
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        exchange = context.exchange((key, value), dim=1)
        query = attn.to_q(hidden_states)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)) for x in (query, key, value))
        attention = DualScopeAttention(q, context.layout(like=query), attn.scale)
        attention.attend_inner(k, v)
        around = exchange.wait()
        keys, values = (
            FramesAtHand(
                [part.unflatten(-1, (attn.heads, -1)) for part in parts_of(x, nth, around)], dim=1
            )
            for nth, x in enumerate((key, value))
        )
        out = attention.finish(keys, values).flatten(-2)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]
