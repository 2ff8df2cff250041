"""The communicator's in-process twin, and rank 0's ordered pull over it."""

from __future__ import annotations

import pytest
import torch

from video_infinity.collect import Spool, pull_in_order
from video_infinity.comm import Communicator, Message, SingleCommunicator
from video_infinity.comm.threads import run_ranks
from video_infinity.errors import ExchangeError


def test_messages_arrive_in_order_and_are_counted() -> None:
    def ring(comm: Communicator) -> tuple[list[float], int]:
        after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        seen = []
        for turn in range(3):
            buffer = torch.empty(4)
            own = torch.full((4,), 10.0 * comm.rank + turn)
            pending = comm.post([Message(after, own)], [Message(before, buffer)])
            own.fill_(-1.0)
            pending.wait()
            seen.append(float(buffer[0]))
        return seen, comm.bytes_received

    for rank, (seen, received) in enumerate(run_ranks(3, ring)):
        assert seen == [10.0 * ((rank - 1) % 3) + turn for turn in range(3)]
        assert received == 3 * 4 * 4


def test_gather_gives_every_rank_the_same_rows() -> None:
    def work(comm: Communicator) -> torch.Tensor:
        rows, pending = comm.gather(torch.tensor([float(comm.rank)]))
        pending.wait()
        return rows

    for rows in run_ranks(4, work):
        assert rows.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_gather_json_takes_values_of_different_sizes() -> None:
    results = run_ranks(3, lambda comm: comm.gather_json({"rank": "x" * comm.rank}))
    assert results == [[{"rank": ""}, {"rank": "x"}, {"rank": "xx"}]] * 3


BROADCAST = {
    "text states": torch.randn(3, 5, 4),
    "half precision": torch.randn(7).bfloat16(),
    "double precision": torch.randn(2, 2, dtype=torch.float64),
    "whole numbers": torch.arange(6).view(2, 3),
    "one number": torch.tensor(3.5),
    "nothing": torch.empty(0, 4),
    "not contiguous": torch.randn(4, 6).t(),
}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", BROADCAST)
def test_broadcast_gives_every_rank_what_rank_0_has(name: str, size: int) -> None:
    given = BROADCAST[name]

    def work(comm: Communicator) -> tuple[torch.Tensor, int]:
        before = comm.bytes_received
        got = comm.broadcast(given if comm.rank == 0 else None, torch.device("cpu"))
        return got, comm.bytes_received - before

    for rank, (got, received) in enumerate(run_ranks(size, work)):
        assert got.dtype == given.dtype and torch.equal(got, given)
        if rank:
            assert received >= given.nbytes


def test_what_was_broadcast_is_each_ranks_own() -> None:
    def work(comm: Communicator) -> torch.Tensor:
        got = comm.broadcast(torch.zeros(3) if comm.rank == 0 else None, torch.device("cpu"))
        comm.barrier()
        got += comm.rank
        comm.barrier()
        return got

    assert [got.tolist() for got in run_ranks(3, work)] == [[float(r)] * 3 for r in range(3)]


def test_a_single_rank_broadcasts_to_itself() -> None:
    given = torch.randn(2, 3)
    assert torch.equal(SingleCommunicator().broadcast(given, torch.device("cpu")), given)


def test_a_missing_rank_is_an_error_at_the_deadline() -> None:
    def work(comm: Communicator) -> None:
        if comm.rank == 0:
            comm.post([], [Message(1, torch.empty(1))]).wait()

    with pytest.raises(ExchangeError, match=r"nothing from rank 1 within 0\.3 s"):
        run_ranks(2, work, timeout_s=0.3)


def test_one_failing_rank_ends_the_others_with_its_own_error() -> None:
    def work(comm: Communicator) -> None:
        if comm.rank == 1:
            raise RuntimeError("rank 1's own error")
        comm.barrier()

    with pytest.raises(RuntimeError, match="rank 1's own error"):
        run_ranks(3, work, timeout_s=60)


def test_a_single_rank_needs_nobody() -> None:
    comm = SingleCommunicator()
    rows, pending = comm.gather(torch.tensor([5.0]))
    pending.wait()
    assert rows.tolist() == [[5.0]]
    assert comm.gather_json([1]) == [[1]]
    assert comm.bytes_received == 0


def test_pieces_reach_rank_0_in_timeline_order_one_at_a_time() -> None:
    counts = (2, 0, 3)
    shapes = [[(1 + index, 2) for index in range(count)] for count in counts]

    def work(comm: Communicator) -> list[int]:
        spool = Spool()
        for index, shape in enumerate(shapes[comm.rank]):
            spool.append(torch.full(shape, 10 * comm.rank + index, dtype=torch.uint8))
        seen: list[int] = []
        sink = lambda piece: seen.append(int(piece[0, 0]))  # noqa: E731
        pull_in_order(comm, shapes, spool.read, sink, torch.uint8)
        return seen

    assert run_ranks(3, work) == [[0, 1, 20, 21, 22], [], []]


def test_spool_keeps_its_pieces_on_disk_and_leaves_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spool = Spool(tmp_path)
    pieces = [torch.randint(0, 256, (n, 4, 3), dtype=torch.uint8) for n in (1, 5, 2)]
    for piece in pieces:
        spool.append(piece)
    for index in (2, 0, 1):
        assert torch.equal(spool.read(index), pieces[index])
    assert list(tmp_path.iterdir()) == []
