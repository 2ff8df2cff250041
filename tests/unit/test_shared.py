"""Ranks over shared memory: the same as over mailboxes, whatever the sizes; a dead rank is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_infinity.comm import Communicator, Message, shared
from video_infinity.comm.shared import RINGS_BYTES, SharedCommunicator, over_shared_memory
from video_infinity.comm.threads import run_ranks
from video_infinity.errors import ExchangeError

pytestmark = pytest.mark.skipif(not shared._is_served(), reason="Linux on x86 alone")

MANY_RINGS = 3 * RINGS_BYTES + 12345


def over(size: int, work: Callable[[Communicator], object], timeout_s: float = 20) -> list[object]:
    """`work` on ranks that are threads over shared memory."""

    def begin(comm: Communicator) -> object:
        served = over_shared_memory(comm, timeout_s)
        assert size == 1 or isinstance(served, SharedCommunicator)
        return work(served)

    return run_ranks(size, begin)


def everything(comm: Communicator) -> list[torch.Tensor]:
    """Rounds of all kinds, several under way at once; what arrived."""
    generator = torch.Generator().manual_seed(comm.rank)
    peers = [rank for rank in range(comm.size) if rank != comm.rank]
    arrived = []
    for elements in (0, 1, 3, 1000, MANY_RINGS // 4, 17):
        own = torch.randn(elements, generator=generator)
        small = torch.randn(2, 3, generator=generator).bfloat16()
        first = [torch.empty(elements) for _ in peers]
        second = [torch.empty(2, 3, dtype=torch.bfloat16) for _ in peers]
        posted = comm.post(
            [Message(peer, x) for peer in peers for x in (own, small)],
            [
                Message(p, x)
                for p, pair in zip(peers, zip(first, second, strict=True), strict=True)
                for x in pair
            ],
        )
        rows, gathered = comm.gather(own[:3].double() * 2)
        gathered.wait()
        posted.wait()
        arrived += [*first, *(x.float() for x in second), rows.float().flatten()]
    comm.barrier()
    return arrived


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_that_arrives_is_what_arrives_over_mailboxes(size: int) -> None:
    for got, expected in zip(over(size, everything), run_ranks(size, everything), strict=True):
        assert isinstance(got, list) and len(got) == len(expected)
        assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


def test_groups_have_rings_of_their_own_and_count_for_the_whole() -> None:
    def work(comm: Communicator) -> tuple[list[float], int]:
        group = comm.subgroup([[0, 2], [3, 1]])
        before = comm.bytes_received
        rows, pending = group.gather(torch.tensor([float(comm.rank)]))
        pending.wait()
        assert isinstance(group, SharedCommunicator)
        return rows.flatten().tolist(), comm.bytes_received - before

    assert over(4, work) == [([0, 2], 4), ([3, 1], 4), ([0, 2], 4), ([3, 1], 4)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=60), st.integers(0, 2**32))
def test_a_ring_is_a_queue_of_bytes(turns: list[tuple[bool, int]], seed: int) -> None:
    room, drawn = 256, np.random.default_rng(seed)
    ring = shared._Ring(memoryview(bytearray(2 * shared._LINE_BYTES + room)))
    queue: deque[int] = deque()
    for puts, count in turns:
        if puts:
            data = drawn.integers(0, 256, count, dtype=np.uint8)
            fitted = ring.put(data)
            assert fitted == min(count, room - len(queue))
            queue.extend(data[:fitted].tolist())
        else:
            into = np.zeros(count, np.uint8)
            came = ring.take(into)
            assert came == min(count, len(queue))
            assert into[:came].tolist() == [queue.popleft() for _ in range(came)]
            assert not into[came:].any()


def test_a_missing_message_is_an_error_at_the_deadline() -> None:
    def work(comm: Communicator) -> None:
        if comm.rank == 0:
            comm.post([], [Message(1, torch.empty(1))]).wait()
        else:
            time.sleep(1)

    with pytest.raises(
        ExchangeError, match=r"took longer than 0\.3 s \(nothing from or for rank 1"
    ):
        over(2, work, timeout_s=0.3)


def test_where_one_rank_cannot_none_does(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False, True])
    monkeypatch.setattr(shared, "_is_served", lambda: next(answers))

    def work(comm: Communicator) -> bool:
        return over_shared_memory(comm, 5) is comm

    assert run_ranks(3, work) == [True] * 3


@pytest.mark.parametrize("lie", [{"token": "00" * 16}, {"network": "net:[1]"}])
def test_memory_that_is_not_that_ranks_is_not_used(
    monkeypatch: pytest.MonkeyPatch, lie: dict[str, str]
) -> None:
    make = shared._Segment.make

    def forged(size: int) -> tuple[shared._Segment, dict[str, object]]:
        segment, offer = make(size)
        return segment, offer | lie

    monkeypatch.setattr(shared._Segment, "make", forged)
    assert run_ranks(2, lambda comm: over_shared_memory(comm, 5) is comm) == [True, True]


RANK = """
import pathlib, sys, torch
from video_infinity.comm import Message
from video_infinity.comm.process import joined_world
from video_infinity.errors import ExchangeError

with joined_world(torch.device("cpu"), 60, pathlib.Path(sys.argv[1])) as comm:
    comm.barrier()
    print("met", flush=True)
    try:
        comm.post([], [Message(1 - comm.rank, torch.empty(8))]).wait()
    except ExchangeError as error:
        print(type(comm).__name__, error, flush=True)
        raise SystemExit(3)
"""


def test_a_rank_that_was_killed_is_seen_at_once(tmp_path: Path) -> None:
    environment = os.environ | {
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path / "ranks")],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        assert rank.stdout is not None and rank.stdout.readline() == "met\n"
    ranks[1].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    said, _ = ranks[0].communicate(timeout=30)
    ranks[1].communicate()
    assert said.startswith("SharedCommunicator rank 0: the exchange with another rank failed")
    assert "rank 1 has ended" in said and ranks[0].returncode == 3
    assert time.monotonic() - begin < 20
