"""The seam between the plan and the wire.

Every call is made by all ranks in the same order; none may stand behind a condition that
differs between ranks. Every wait has a deadline and raises ExchangeError when it passes.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class Message:
    """A tensor for, or a buffer from, another rank. Contiguous; both sides know its shape."""

    peer: int
    tensor: torch.Tensor


class Pending(Protocol):
    """Communication under way."""

    def wait(self) -> None:
        """Return when every receive buffer is filled. Raises ExchangeError at the deadline."""


@dataclass
class Tally:
    """What one rank has exchanged.

    bytes_received  payload
    posts, gathers  rounds of frames, and of small tensors of all ranks, such as moments
    seconds_waited  in `wait`, for what had not arrived; on CUDA the host's time alone
    """

    bytes_received: int = 0
    posts: int = 0
    gathers: int = 0
    seconds_waited: float = 0.0

    def since(self, before: Tally) -> Tally:
        """What has been added to an earlier copy."""
        return Tally(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(Tally)))


class _Timed:
    """Communication under way whose wait is added to a tally."""

    def __init__(self, pending: Pending, tally: Tally) -> None:
        self._pending, self._tally = pending, tally

    def wait(self) -> None:
        begin = time.perf_counter()
        self._pending.wait()
        self._tally.seconds_waited += time.perf_counter() - begin


class Communicator(ABC):
    """One rank's end of the wire.

    rank, size   this rank and the number of ranks
    tally        what this rank has exchanged so far, in its groups as well
    """

    rank: int
    size: int
    _parent: Communicator | None = None

    @cached_property
    def tally(self) -> Tally:
        return Tally() if self._parent is None else self._parent.tally

    @property
    def bytes_received(self) -> int:
        return self.tally.bytes_received

    def post(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        """Start all sends and receives at once; nothing is complete before `wait`."""
        self.tally.bytes_received += sum(message.tensor.nbytes for message in receives)
        self.tally.posts += 1
        return _Timed(self._post(sends, receives), self.tally)

    def subgroup(self, groups: Sequence[Sequence[int]]) -> Communicator:
        """A communicator of this rank's group, whose ranks count anew in the order given.

        groups  disjoint, together all ranks. All ranks call alike, with the same.
        What the group receives counts as received here too.
        """
        assert sorted(rank for group in groups for rank in group) == list(range(self.size))
        if len(groups) == 1:
            return self
        own = next(group for group in groups if self.rank in group)
        if len(own) == 1:
            return SingleCommunicator()
        group = self._subgroup(own)
        group._parent = self
        return group

    @abstractmethod
    def _subgroup(self, own: Sequence[int]) -> Communicator:
        """Of two ranks or more, this one among them. They alone call."""

    def gather(self, local: torch.Tensor) -> tuple[torch.Tensor, Pending]:
        """Start sharing a small tensor of the same shape on every rank with all ranks.

        Returns the buffer [size, *local.shape], valid after `wait`, and what to wait for.
        """
        self.tally.bytes_received += local.nbytes * (self.size - 1)
        self.tally.gathers += 1
        rows, pending = self._gather(local.contiguous())
        return rows, _Timed(pending, self.tally)

    @abstractmethod
    def _post(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending: ...

    @abstractmethod
    def _gather(self, local: torch.Tensor) -> tuple[torch.Tensor, Pending]: ...

    def broadcast(self, tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor:
        """Rank 0's tensor on every rank; the others give None. Its type and shape go before it."""
        header = [str(tensor.dtype), *tensor.shape] if tensor is not None else None
        kind, *shape = self.gather_json(header)[0]
        if self.rank == 0:
            assert tensor is not None
            sent = tensor.to(device).contiguous()
            self.post([Message(peer, sent) for peer in range(1, self.size)], []).wait()
            return sent
        dtype = getattr(torch, kind.removeprefix("torch."))
        received = torch.empty(shape, dtype=dtype, device=device)
        self.post([], [Message(0, received)]).wait()
        return received

    @abstractmethod
    def barrier(self) -> None:
        """Return when all ranks have come here."""

    def gather_json(self, value: Any) -> list[Any]:
        """Share one plain value per rank with all ranks, as JSON (never pickle)."""
        payload = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        sizes, pending = self.gather(torch.tensor([payload.numel()]))
        pending.wait()
        padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
        padded[: payload.numel()] = payload
        rows, pending = self.gather(padded)
        pending.wait()
        return [
            json.loads(bytes(row[: int(size)].tolist()))
            for row, size in zip(rows, sizes, strict=True)
        ]


class Done:
    """Nothing to wait for."""

    def wait(self) -> None:
        return None


class SingleCommunicator(Communicator):
    """A world of one rank: nothing travels."""

    rank = 0
    size = 1

    def _subgroup(self, own: Sequence[int]) -> Communicator:
        raise AssertionError("a single rank is one group")

    def _post(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        assert not sends and not receives, "a single rank has nobody to talk to"
        return Done()

    def _gather(self, local: torch.Tensor) -> tuple[torch.Tensor, Pending]:
        return local[None], Done()

    def barrier(self) -> None:
        return None
