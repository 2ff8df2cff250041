"""Put the timeline's layers into a model, and take them out again.

An adapter declares the sites; nothing is found by a class's spelling, and no forward is
overwritten. What stood there before stands there again when the context manager ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from video_infinity.context.frame_layers import DualScopeFrameProcessor, FrameAttentionOps
from video_infinity.context.frame_times import FrameTimeProjection, FrameTimeSite
from video_infinity.context.layers import (
    ClipContext,
    DualScopeProcessor,
    TimelineConvBlock,
    TimelineGroupNorm,
)
from video_infinity.context.slices import (
    SlicedFrames,
    SlicedSequences,
    SlicedTokens,
    TokenSite,
)
from video_infinity.context.text_layer import FrameTextProcessor
from video_infinity.context.windowed import WindowedFrameProcessor, WindowedProcessor


class AttentionModule(Protocol):
    """What a site's attention offers, as diffusers' Attention does."""

    processor: Any

    def set_processor(self, processor: Any) -> None: ...


@dataclass(frozen=True)
class ModuleSite:
    """A module to swap: `getattr(parent, attribute)`."""

    parent: nn.Module
    attribute: str

    @property
    def module(self) -> Any:
        return getattr(self.parent, self.attribute)


@dataclass(frozen=True)
class Sites:
    """Where a model looks over time, and where it reads its text.

    attention        temporal self-attention on [S, F, C], one sequence per pixel
    convs            nn.Sequential(GroupNorm, ..., convolution over time) on [N, C, F, H, W]
    norms            GroupNorm on [N, C, F, H, W]
    text             cross-attention to what the text encoder says
    frame_attention  self-attention over the tokens of all frames, [B, F * P, C]
    frame_ops        what the family does around that
    embedded_text    cross-attention to text rows that the model embeds and hands on
    frame_wise       modules that see every frame [batch x frames, C, H, W] alone
    sequence_wise    modules over time that see every sequence [S, F, C] alone
    token_wise       modules that see every token alone, such as a transformer's feed-forward
    frame_times      projections of the time embedding, where a model takes one time for all frames
    swaps            modules in whose place others stand, such as a rotary embedding of the timeline
    """

    attention: tuple[AttentionModule, ...] = ()
    convs: tuple[ModuleSite, ...] = ()
    norms: tuple[ModuleSite, ...] = ()
    text: tuple[AttentionModule, ...] = ()
    frame_attention: tuple[AttentionModule, ...] = ()
    frame_ops: FrameAttentionOps | None = None
    embedded_text: tuple[AttentionModule, ...] = ()
    frame_wise: tuple[ModuleSite, ...] = ()
    sequence_wise: tuple[ModuleSite, ...] = ()
    token_wise: tuple[TokenSite, ...] = ()
    frame_times: tuple[FrameTimeSite, ...] = ()
    swaps: tuple[tuple[ModuleSite, nn.Module], ...] = ()


@dataclass(frozen=True)
class Layers:
    """What is put in at the sites that look over time: made of a site's own part and a context."""

    attention: Callable[[ClipContext], Any] = DualScopeProcessor
    frame_attention: Callable[[Any, FrameAttentionOps, ClipContext], Any] = DualScopeFrameProcessor
    conv: Callable[[nn.Sequential, ClipContext], nn.Module] = TimelineConvBlock
    norm: Callable[[nn.GroupNorm, ClipContext], nn.Module] = TimelineGroupNorm


LAYERS = Layers()
"""Those of clip parallelism."""

WINDOWED = Layers(attention=WindowedProcessor, frame_attention=WindowedFrameProcessor)
"""Those of FreeNoise, whose attention over time goes in windows."""


@contextmanager
def installed(
    sites: Sites,
    context: ClipContext,
    layers: Layers | None = None,
    *,
    per_frame_times: bool = False,
) -> Iterator[ClipContext]:
    """The model, as one video over all ranks of `context`, inside the `with`.

    layers             None: those that the context's plan asks for
    per_frame_times    whether passes are `timed` with a timestep for each frame
    """
    if layers is None:
        layers = LAYERS if context.plan.scopes.windows is None else WINDOWED
    with ExitStack() as stack:
        for attention in sites.attention:
            stack.enter_context(_processor(attention, layers.attention(context)))
        for attention in sites.frame_attention:
            assert sites.frame_ops is not None, "frame attention needs its family's operations"
            inner = attention.processor
            frame_processor = layers.frame_attention(inner, sites.frame_ops, context)
            stack.enter_context(_processor(attention, frame_processor))
        for group, reads_states in ((sites.text, False), (sites.embedded_text, True)):
            for attention in group:
                inner = attention.processor
                text_processor = FrameTextProcessor(inner, context, reads_states=reads_states)
                stack.enter_context(_processor(attention, text_processor))
        for site in sites.convs:
            stack.enter_context(swapped(site, layers.conv(site.module, context)))
        for site in sites.norms:
            stack.enter_context(swapped(site, layers.norm(site.module, context)))
        for tokens in sites.token_wise:
            token_site = ModuleSite(tokens.parent, tokens.attribute)
            sliced = SlicedTokens(token_site.module, tokens.widest_channels, context)
            stack.enter_context(swapped(token_site, sliced))
        for site in sites.frame_wise:
            stack.enter_context(swapped(site, SlicedFrames(site.module, context)))
        for site in sites.sequence_wise:
            stack.enter_context(swapped(site, SlicedSequences(site.module, context)))
        for times in sites.frame_times if per_frame_times else ():
            projection = FrameTimeProjection(times, context)
            stack.enter_context(swapped(ModuleSite(times.parent, times.attribute), projection))
        for site, module in sites.swaps:
            stack.enter_context(swapped(site, module))
        yield context


@contextmanager
def _processor(attention: AttentionModule, processor: Any) -> Iterator[None]:
    before = attention.processor
    attention.set_processor(processor)
    try:
        yield
    finally:
        attention.set_processor(before)


@contextmanager
def swapped(site: ModuleSite, module: nn.Module) -> Iterator[None]:
    """`module` in the site's place inside the `with`."""
    before = site.module
    setattr(site.parent, site.attribute, module)
    try:
        yield
    finally:
        setattr(site.parent, site.attribute, before)
