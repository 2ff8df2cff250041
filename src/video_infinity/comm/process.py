"""Ranks as processes of torch.distributed: gloo on CPU, NCCL on CUDA, one code path.

Ranks on the CPUs of one machine exchange over shared memory where they can.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from video_infinity.comm.base import Communicator, Message, Pending
from video_infinity.comm.shared import over_shared_memory
from video_infinity.errors import ExchangeError


class _Works:
    def __init__(
        self, works: Sequence[Any], guard: Callable[[Callable[[], Any]], Any], wait_s: float | None
    ) -> None:
        self._works, self._guard, self._wait_s = works, guard, wait_s

    def wait(self) -> None:
        deadline = () if self._wait_s is None else (timedelta(seconds=self._wait_s),)
        for work in self._works:
            self._guard(partial(work.wait, *deadline))


class ProcessCommunicator(Communicator):
    """One rank's end of the default process group, or of a part of it.

    members  the world's ranks in `group`, in its order; None is all of them
    On CUDA messages move on NCCL's own stream, beside the one that computes, from `post` to `wait`;
    a wait orders the streams and does not block the host: there the deadline is the
    watchdog's, which ends the process. On CPU every wait carries the deadline itself.
    """

    def __init__(
        self,
        device: torch.device,
        timeout_s: float,
        group: Any = None,
        members: Sequence[int] | None = None,
    ) -> None:
        self._group = group
        self._members = tuple(range(dist.get_world_size()) if members is None else members)
        self.rank = self._members.index(dist.get_rank())
        self.size = len(self._members)
        self._device, self._timeout_s = device, timeout_s
        self._wait_s = None if device.type == "cuda" else timeout_s

    def _subgroup(self, own: Sequence[int]) -> Communicator:
        members = [self._members[rank] for rank in own]
        group = self._guard(
            partial(
                dist.new_group,
                members,
                timeout=timedelta(seconds=self._timeout_s),
                use_local_synchronization=True,
            )
        )
        return ProcessCommunicator(self._device, self._timeout_s, group, members)

    def _guard(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ExchangeError(
                f"rank {self.rank}: the exchange with another rank failed or took longer than "
                f"{self._timeout_s:g} s ({reason}); see that rank's error, or raise --timeout"
            ) from error

    def _post(self, sends: Sequence[Message], receives: Sequence[Message]) -> Pending:
        operations = [self._operation(dist.irecv, message) for message in receives]
        operations += [self._operation(dist.isend, message) for message in sends]
        if not operations:
            return _Works((), self._guard, self._wait_s)
        works = self._guard(lambda: dist.batch_isend_irecv(operations))
        return _Works(works, self._guard, self._wait_s)

    def _operation(self, kind: Any, message: Message) -> dist.P2POp:
        return dist.P2POp(kind, message.tensor, self._members[message.peer], self._group)

    def _gather(self, local: torch.Tensor) -> tuple[torch.Tensor, Pending]:
        rows = torch.empty((self.size, *local.shape), dtype=local.dtype, device=local.device)
        work = self._guard(
            lambda: dist.all_gather_single(
                rows.view(self.size * local.numel()),
                local.view(-1),
                group=self._group,
                async_op=True,
            )
        )
        wait_s = None if local.device.type == "cuda" else self._timeout_s
        return rows, _Works((work,), self._guard, wait_s)

    def barrier(self) -> None:
        """Control traffic stays on the CPU's group, where a wait blocks the host."""
        _, pending = self._gather(torch.zeros(1))
        pending.wait()


def in_torchrun() -> bool:
    """Whether a launcher has given this process a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def present_world(
    device: torch.device, timeout_s: float, *, shares_memory: bool = True
) -> Communicator:
    """This rank's end of the world that it has joined. All ranks call alike.

    shares_memory  whether ranks on CPUs may exchange over shared memory, where they can
    """
    comm = ProcessCommunicator(device, timeout_s)
    return over_shared_memory(comm, timeout_s) if device.type == "cpu" and shares_memory else comm


@contextmanager
def joined_world(
    device: torch.device,
    timeout_s: float,
    meeting: Path | None = None,
    *,
    shares_memory: bool = True,
) -> Iterator[Communicator]:
    """Join the world that RANK and WORLD_SIZE describe, and leave it at the end.

    meeting  a file, not yet there, over which ranks of one machine find each other; None is
             MASTER_ADDR and MASTER_PORT: a port that listens on every interface of its machine
    shares_memory  see `present_world`
    Raises ExchangeError if the other ranks do not come within the deadline.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store: dict[str, Any] = {}
    try:
        if meeting is not None:
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            file = dist.FileStore(str(meeting), size)  # type: ignore[attr-defined]
            store = {"store": file, "rank": rank, "world_size": size}
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **store)
    except (RuntimeError, ValueError) as error:
        raise ExchangeError(
            f"the {os.environ.get('WORLD_SIZE')} ranks did not meet within {timeout_s:g} s: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    try:
        yield present_world(device, timeout_s, shares_memory=shares_memory)
    finally:
        dist.destroy_process_group()
