"""Ranks of one machine that exchange over shared memory, once gloo has brought them together.

A round over a socket puts a rank to sleep and wakes it again, and on a CPU the layer after it
then runs slower as well. Here a rank looks at the other's memory until its bytes are there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import platform
import secrets
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from video_infinity.comm.base import Communicator, Message, Pending
from video_infinity.errors import ExchangeError

RINGS_BYTES = 2 << 20
"""For all that one rank has sent and the others have not taken yet. More goes in several turns."""
_NETWORK = "/proc/self/ns/net"
_TOKEN_BYTES, _HEADER_BYTES, _LINE_BYTES = 16, 4096, 64
_LOOK_S, _SLEEP_S, _ALIVE_EVERY_S = 0.01, 0.0002, 0.05


class _Ring:
    """Bytes on their way from one rank to another: two counters, each written by one side.

    A counter is written after the bytes that it counts. Other processors than x86 may show these
    writes in another order, which is why `over_shared_memory` does not serve them.
    """

    def __init__(self, memory: memoryview) -> None:
        self._put_so_far = memory[:8].cast("q")
        self._taken_so_far = memory[_LINE_BYTES : _LINE_BYTES + 8].cast("q")
        self._data = np.frombuffer(memory[2 * _LINE_BYTES :], np.uint8)

    def put(self, data: np.ndarray[Any, Any]) -> int:
        """Copy as much as there is room for; how much that was."""
        put, size = self._put_so_far[0], len(self._data)
        count = min(len(data), size - (put - self._taken_so_far[0]))
        at = put % size
        first = min(count, size - at)
        self._data[at : at + first] = data[:first]
        self._data[: count - first] = data[first:count]
        self._put_so_far[0] = put + count
        return count

    def take(self, into: np.ndarray[Any, Any]) -> int:
        """Copy as much as has come, and no more than `into` holds; how much that was."""
        taken, size = self._taken_so_far[0], len(self._data)
        count = min(len(into), self._put_so_far[0] - taken)
        if not count:
            return 0
        at = taken % size
        first = min(count, size - at)
        into[:first] = self._data[at : at + first]
        into[first:count] = self._data[: count - first]
        self._taken_so_far[0] = taken + count
        return count


class _Segment:
    """What one rank writes: its rings to the others, in memory without a name.

    Its owner holds a lock on it as long as it lives; so the others see when it is gone.
    """

    def __init__(self, file_number: int, size: int) -> None:
        self._file = os.fdopen(file_number, "r+b", buffering=0)
        self._ring_bytes = _ring_bytes(size)
        self._memory = memoryview(mmap.mmap(file_number, _segment_bytes(size)))

    @classmethod
    def make(cls, size: int) -> tuple[_Segment, dict[str, Any]]:
        """A new one, and what another process needs to open it. Raises OSError."""
        number = os.memfd_create("video-infinity", os.MFD_CLOEXEC)
        os.posix_fallocate(number, 0, _segment_bytes(size))
        segment, token = cls(number, size), secrets.token_bytes(_TOKEN_BYTES)
        segment._memory[:_TOKEN_BYTES] = token
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return segment, {
            "pid": os.getpid(),
            "file": number,
            "token": token.hex(),
            "network": os.readlink(_NETWORK),
        }

    @classmethod
    def open(cls, offer: dict[str, Any], size: int) -> _Segment:
        """Another rank's. Raises OSError if it is not on this machine, or not to be seen here."""
        path = f"/proc/{int(offer['pid'])}/fd/{int(offer['file'])}"
        if offer["network"] != os.readlink(_NETWORK):
            raise OSError(f"{path} is in another container")
        number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(number).st_size != _segment_bytes(size):
            os.close(number)
            raise OSError(f"{path} is not that rank's memory")
        segment = cls(number, size)
        if bytes(segment._memory[:_TOKEN_BYTES]).hex() != offer["token"]:
            raise OSError(f"{path} is not that rank's memory")
        return segment

    def ring(self, target: int) -> _Ring:
        begin = _HEADER_BYTES + target * self._ring_bytes
        return _Ring(self._memory[begin : begin + self._ring_bytes])

    def is_left(self) -> bool:
        """Whether the rank that made it is gone."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _ring_bytes(size: int) -> int:
    each = RINGS_BYTES // (size - 1)
    return max(each - each % _LINE_BYTES, 4 * _LINE_BYTES)


def _segment_bytes(size: int) -> int:
    return _HEADER_BYTES + size * _ring_bytes(size)


@dataclass
class _Work:
    """Pieces of one call that are under way."""

    comm: SharedCommunicator
    left: int

    def wait(self) -> None:
        self.comm.finish(self)


class _Lane:
    """The pieces that wait for one ring, in the order of the calls."""

    def __init__(self, peer: int, move: Any) -> None:
        self.peer, self._move = peer, move
        self.waiting: deque[tuple[np.ndarray[Any, Any], _Work]] = deque()

    def add(self, tensor: torch.Tensor, work: _Work) -> None:
        self.waiting.append((tensor.detach().view(-1).view(torch.uint8).numpy(), work))

    def advance(self) -> bool:
        """Move what can be moved; whether that was anything."""
        moved = False
        while self.waiting:
            piece, work = self.waiting[0]
            count = self._move(piece)
            moved = moved or count > 0
            if count < len(piece):
                self.waiting[0] = piece[count:], work
                return moved
            self.waiting.popleft()
            work.left -= 1
        return moved


class SharedCommunicator(Communicator):
    """One rank's end of rings between all ranks of a communicator; see `over_shared_memory`.

    segments  of all ranks. What does not fit a ring goes on while this rank waits.
    """

    def __init__(self, comm: Communicator, segments: Sequence[_Segment], timeout_s: float) -> None:
        self._over, self._segments, self._timeout_s = comm, segments, timeout_s
        self.rank, self.size = comm.rank, comm.size
        peers = [rank for rank in range(self.size) if rank != self.rank]
        own = segments[self.rank]
        self._out = {peer: _Lane(peer, own.ring(peer).put) for peer in peers}
        self._in = {peer: _Lane(peer, segments[peer].ring(self.rank).take) for peer in peers}
        self._lanes = (*self._out.values(), *self._in.values())
        threads = self.size * torch.get_num_threads()
        self._look_s = _LOOK_S if threads <= len(os.sched_getaffinity(0)) else 0.0

    def _subgroup(self, own: Sequence[int]) -> Communicator:
        return over_shared_memory(self._over._subgroup(own), self._timeout_s)

    def _post(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        work = _Work(self, len(sends) + len(receives))
        for message in sends:
            self._out[message.peer].add(message.tensor, work)
        for message in receives:
            self._in[message.peer].add(message.tensor, work)
        self._advance()
        return work

    def _gather(self, local: torch.Tensor) -> tuple[torch.Tensor, Pending]:
        rows = torch.empty((self.size, *local.shape), dtype=local.dtype)
        rows[self.rank] = local
        sends = [Message(peer, local) for peer in self._out]
        return rows, self._post(sends, [Message(peer, rows[peer]) for peer in self._in])

    def barrier(self) -> None:
        _, pending = self._gather(torch.zeros(1))
        pending.wait()

    def _advance(self) -> bool:
        moved = [lane.advance() for lane in self._lanes if lane.waiting]
        return any(moved)

    def finish(self, work: _Work) -> None:
        """Move bytes until nothing of a call is left. Raises ExchangeError at the deadline."""
        begin = moved_at = asked_at = time.monotonic()
        while work.left:
            if self._advance():
                moved_at = time.monotonic()
                continue
            now = time.monotonic()
            if now - moved_at < self._look_s:
                continue
            if now - asked_at > _ALIVE_EVERY_S:
                asked_at = now
                self._check(now - begin)
            time.sleep(_SLEEP_S)

    def _check(self, waited_s: float) -> None:
        awaited = sorted({lane.peer for lane in self._lanes if lane.waiting})
        gone = [peer for peer in awaited if self._segments[peer].is_left()]
        if self._advance():  # its last bytes may have come just before it went
            return
        what = f"rank {self.rank}: the exchange with another rank failed"
        if gone:
            raise ExchangeError(f"{what} (rank {gone[0]} has ended); see that rank's error")
        if waited_s > self._timeout_s:
            raise ExchangeError(
                f"{what} or took longer than {self._timeout_s:g} s (nothing from or for rank "
                f"{awaited[0]}); see that rank's error, or raise --timeout"
            )


def over_shared_memory(comm: Communicator, timeout_s: float) -> Communicator:
    """The same ranks over shared memory, or `comm` where they cannot. All ranks call alike.

    They can where all are on one Linux machine with x86 processors, in one network namespace, and
    may see each other's open files under /proc, as processes of one user in one container do.
    """
    if comm.size == 1:
        return comm
    try:
        own, offer = _Segment.make(comm.size) if _is_served() else (None, None)
    except OSError:
        own, offer = None, None
    offers = comm.gather_json(offer)
    segments: list[_Segment] = []
    try:
        if own is not None and all(offers):
            segments = [
                own if rank == comm.rank else _Segment.open(offers[rank], comm.size)
                for rank in range(comm.size)
            ]
    except OSError:
        segments = []
    if not all(comm.gather_json(bool(segments))):
        return comm
    return SharedCommunicator(comm, segments, timeout_s)


def held_bytes(size: int) -> int:
    """What one of `size` ranks sees of rings, at most: its own, and those that lead to it."""
    return 2 * (size - 1) * _ring_bytes(size) if size > 1 and _is_served() else 0


def _is_served() -> bool:
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
