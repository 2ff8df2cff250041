"""The context exchange of one temporal layer: frames of other ranks' clips, in one round."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from video_infinity.comm import Communicator, Message, Pending
from video_infinity.plan import Plan, Span, Transfer, frames_of

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def eager(function: AnyFunction, *, recursive: bool = True) -> AnyFunction:
    """Keep a function out of compiled graphs: what travels, and what is made once for all.

    recursive  keep out what it calls as well
    The compiler takes a second to import, so that it is asked only where it is there already.
    """
    kept_out: list[Any] = []

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **named)
        if not kept_out:
            kept_out.append(torch.compiler.disable(function, recursive))
        return kept_out[0](*args, **named)

    return cast(AnyFunction, call)


@dataclass(frozen=True)
class Neighbourhood:
    """Own frames between those received from earlier and from later ranks.

    left_frames, right_frames  which frames came, rising
    left, right                per tensor that was exchanged: those frames, or None
    """

    left_frames: tuple[int, ...]
    right_frames: tuple[int, ...]
    left: tuple[torch.Tensor, ...] | None
    right: tuple[torch.Tensor, ...] | None


class Buffers:
    """Storage for messages that one exchange after the other uses, as large as the largest.

    What came with an exchange is overwritten by the next one with the same buffers.
    """

    def __init__(self) -> None:
        self._stores: dict[Any, torch.Tensor] = {}

    def take(
        self, role: str, shapes: Sequence[Sequence[int]], like: torch.Tensor
    ) -> list[torch.Tensor]:
        """Contiguous tensors of these shapes, of the type and device of `like`, in one storage."""
        sizes = [math.prod(shape) for shape in shapes]
        key = role, like.dtype, like.device
        store = self._stores.get(key)
        if store is None or len(store) < sum(sizes):
            store = self._stores[key] = like.new_empty(sum(sizes))
        pieces = store[: sum(sizes)].split(sizes)
        return [piece.view(tuple(shape)) for piece, shape in zip(pieces, shapes, strict=True)]


class FrameExchange:
    """An exchange under way: posted when built, complete after `wait`.

    own      tensors of this rank's clip with frames along `dim`; all travel in one message
    held     the frames that they hold, a clip's or none
    buffers  where messages lie; new ones where none are given
    Transfers are posted in the order of their phases (global; odd-even; even-odd).
    Source: Tan et al. (2024), section 3.2; both partners post before either waits.
    """

    def __init__(
        self,
        comm: Communicator,
        held: range,
        transfers: Sequence[Transfer],
        own: Sequence[torch.Tensor],
        dim: int,
        buffers: Buffers | None = None,
    ) -> None:
        self._rank, self._dim = comm.rank, dim
        outgoing = [t for t in transfers if t.source == comm.rank]
        self._incoming = [t for t in transfers if t.target == comm.rank]

        def room_for(role: str, some: Sequence[Transfer]) -> list[torch.Tensor]:
            shapes = [_message_shape(own, len(t.frames), dim) for t in some]
            return (buffers or Buffers()).take(role, shapes, own[0])

        self._sends = room_for("send", outgoing)
        for transfer, packed in zip(outgoing, self._sends, strict=True):
            _pack(own, transfer.frames, held.start, dim, packed)
        self._buffers = room_for("receive", self._incoming)
        self._pending: Pending = comm.post(
            [Message(t.target, x) for t, x in zip(outgoing, self._sends, strict=True)],
            [Message(t.source, x) for t, x in zip(self._incoming, self._buffers, strict=True)],
        )

    @eager
    def wait(self) -> Neighbourhood:
        """The received frames, in timeline order. Raises ExchangeError at the deadline."""
        self._pending.wait()
        self._sends.clear()
        arrived = sorted(
            zip(self._incoming, self._buffers, strict=True), key=lambda pair: pair[0].source
        )
        left = [pair for pair in arrived if pair[0].source < self._rank]
        right = [pair for pair in arrived if pair[0].source > self._rank]
        return Neighbourhood(
            tuple(frame for transfer, _ in left for frame in transfer.frames),
            tuple(frame for transfer, _ in right for frame in transfer.frames),
            _join([buffer for _, buffer in left], self._dim),
            _join([buffer for _, buffer in right], self._dim),
        )


def _message_shape(own: Sequence[torch.Tensor], num_frames: int, dim: int) -> list[int]:
    shape = list(own[0].shape)
    shape[dim] = num_frames
    return [len(own), *shape]


def _pack(
    own: Sequence[torch.Tensor],
    frames: tuple[int, ...],
    first_held: int,
    dim: int,
    packed: torch.Tensor,
) -> None:
    """Copy frames of each tensor into a message, run by run."""
    offset = 0
    for run in _runs(frames):
        for x, target in zip(own, packed, strict=True):
            part = x.narrow(dim, run.start - first_held, len(run))
            target.narrow(dim, offset, len(run)).copy_(part)
        offset += len(run)


@functools.lru_cache(maxsize=256)
def _runs(frames: tuple[int, ...]) -> tuple[range, ...]:
    """Rising frames as spans without gaps."""
    runs: list[range] = []
    for frame in frames:
        if runs and runs[-1].stop == frame:
            runs[-1] = range(runs[-1].start, frame + 1)
        else:
            runs.append(range(frame, frame + 1))
    return tuple(runs)


def _join(buffers: Sequence[torch.Tensor], dim: int) -> tuple[torch.Tensor, ...] | None:
    if not buffers:
        return None
    joined = buffers[0] if len(buffers) == 1 else torch.cat(list(buffers), dim + 1)
    return tuple(joined.unbind(0))


def widen(own: torch.Tensor, nth: int, around: Neighbourhood, dim: int) -> torch.Tensor:
    """The nth exchanged tensor with the received frames on both sides of one's own."""
    parts = [own]
    if around.left is not None:
        parts.insert(0, around.left[nth])
    if around.right is not None:
        parts.append(around.right[nth])
    return own if len(parts) == 1 else torch.cat(parts, dim)


def fetch(
    comm: Communicator, plan: Plan, spans: Sequence[Span | None], own: torch.Tensor, dim: int
) -> torch.Tensor | None:
    """The frames of this rank's span, from whichever ranks hold them. All ranks call alike.

    own  this rank's clip, with frames along `dim`; none, where a plan of fewer ranks gives it none
    Returns None if the span is None, or has no frames.
    """
    span = spans[comm.rank]
    held = plan.clips[comm.rank].frames if comm.rank < plan.num_ranks else range(0)
    around = FrameExchange(comm, held, plan.transfers(spans), (own,), dim).wait()
    if not span:
        return None
    runs = _runs(tuple(frame for frame in frames_of(span) if frame in held))
    parts = [own.narrow(dim, run.start - held.start, len(run)) for run in runs]
    kept = parts[0] if len(parts) == 1 else torch.cat([own.narrow(dim, 0, 0), *parts], dim)
    return widen(kept, 0, around, dim)
