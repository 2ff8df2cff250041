"""Ranks as threads of one process: the communicator's twin for fast tests."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from video_infinity.comm.base import Communicator, Message, Pending
from video_infinity.errors import ExchangeError

T = TypeVar("T")


class ThreadWorld:
    """Mailboxes between `size` ranks that live in one process."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size = size
        self.timeout_s = timeout_s
        self.failed = threading.Event()
        self._boxes: dict[tuple[int, int, str], queue.SimpleQueue[torch.Tensor]] = defaultdict(
            queue.SimpleQueue
        )
        self._lock = threading.Lock()

    def box(self, source: int, target: int, channel: str) -> queue.SimpleQueue[torch.Tensor]:
        with self._lock:
            return self._boxes[source, target, channel]

    def take(self, source: int, target: int, channel: str) -> torch.Tensor:
        """The next tensor from a peer. Raises ExchangeError at the deadline or when one failed."""
        deadline = time.monotonic() + self.timeout_s
        box = self.box(source, target, channel)
        while not self.failed.is_set():
            try:
                return box.get(timeout=0.05)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise ExchangeError(
                        f"rank {target}: nothing from rank {source} within {self.timeout_s} s"
                    ) from None
        raise ExchangeError(f"rank {target}: another rank failed")


class _Receives:
    def __init__(
        self, world: ThreadWorld, rank: int, channel: str, receives: Sequence[Message]
    ) -> None:
        self._world, self._rank, self._channel = world, rank, channel
        self._receives = receives

    def wait(self) -> None:
        for message in self._receives:
            message.tensor.copy_(self._world.take(message.peer, self._rank, self._channel))


class ThreadCommunicator(Communicator):
    """One rank's end of a ThreadWorld, or of a group of its ranks.

    members  the world's ranks in the group, in its order; None is all of them
    """

    def __init__(self, world: ThreadWorld, rank: int, members: Sequence[int] | None = None) -> None:
        self._world = world
        self._members = tuple(range(world.size) if members is None else members)
        self.rank = self._members.index(rank)
        self.size = len(self._members)

    def _subgroup(self, own: Sequence[int]) -> Communicator:
        members = [self._members[rank] for rank in own]
        return ThreadCommunicator(self._world, self._members[self.rank], members)

    def _post(
        self, sends: Sequence[Message], receives: Sequence[Message], channel: str = "frames"
    ) -> Pending:
        channel = f"{channel} of {self._members}"
        me = self._members[self.rank]
        for message in sends:
            peer = self._members[message.peer]
            self._world.box(me, peer, channel).put(message.tensor.clone())
        incoming = [Message(self._members[m.peer], m.tensor) for m in receives]
        return _Receives(self._world, me, channel, incoming)

    def _gather(self, local: torch.Tensor) -> tuple[torch.Tensor, Pending]:
        rows = torch.empty((self.size, *local.shape), dtype=local.dtype)
        rows[self.rank] = local
        peers = [peer for peer in range(self.size) if peer != self.rank]
        sends = [Message(peer, local) for peer in peers]
        receives = [Message(peer, rows[peer]) for peer in peers]
        return rows, self._post(sends, receives, channel="gather")

    def barrier(self) -> None:
        _, pending = self._gather(torch.zeros(1))
        pending.wait()


def run_ranks(size: int, work: Callable[[Communicator], T], *, timeout_s: float = 60.0) -> list[T]:
    """Run `work(communicator)` on `size` ranks, one thread each; return results by rank.

    Raises the error of the rank that failed first; the others are told and end.
    """
    world = ThreadWorld(size, timeout_s)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadCommunicator(world, rank))
        except BaseException as error:
            errors.append(error)
            world.failed.set()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(size)]
