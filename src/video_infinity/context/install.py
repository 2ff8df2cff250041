"""Put the timeline's layers into a model, and take them out again.

An adapter declares the sites; nothing is found by a class's spelling, and no forward is
overwritten. What stood there before stands there again when the context manager ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from video_infinity.context.layers import (
    ClipContext,
    DualScopeProcessor,
    FrameTextProcessor,
    TimelineConvBlock,
    TimelineGroupNorm,
)


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

    attention   temporal self-attention on [S, F, C]
    convs       nn.Sequential(GroupNorm, ..., convolution over time) on [N, C, F, H, W]
    norms       GroupNorm on [N, C, F, H, W]
    text        cross-attention whose queries are (batch, frame)-major
    """

    attention: tuple[AttentionModule, ...]
    convs: tuple[ModuleSite, ...]
    norms: tuple[ModuleSite, ...]
    text: tuple[AttentionModule, ...]


@contextmanager
def installed(sites: Sites, context: ClipContext) -> Iterator[ClipContext]:
    """The model, as one video over all ranks of `context`, inside the `with`."""
    with ExitStack() as stack:
        for attention in sites.attention:
            stack.enter_context(_processor(attention, DualScopeProcessor(context)))
        for attention in sites.text:
            inner = attention.processor
            stack.enter_context(_processor(attention, FrameTextProcessor(inner, context)))
        for site in sites.convs:
            stack.enter_context(_swapped(site, TimelineConvBlock(site.module, context)))
        for site in sites.norms:
            stack.enter_context(_swapped(site, TimelineGroupNorm(site.module, context)))
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
def _swapped(site: ModuleSite, module: nn.Module) -> Iterator[None]:
    before = site.module
    setattr(site.parent, site.attribute, module)
    try:
        yield
    finally:
        setattr(site.parent, site.attribute, before)
