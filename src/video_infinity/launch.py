"""Ranks as processes: join the world that torchrun made, or make one on this machine.

A spawned rank runs the same command line as its launcher, under torch elastic, so that there is
one path for one machine and for several.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.comm.process import in_torchrun, joined_world, present_world
from video_infinity.failures import (
    FAILURES_DIR,
    first_failure,
    is_spawned,
    note_told,
    report_error,
)
from video_infinity.interrupts import asking_first, ending_when_told, heeded_signals
from video_infinity.watch import ending_stopped_ranks

SHUTDOWN_TIMEOUT_S = 10
"""How long a rank may take to end when told, before it is killed; more than GRACE_S."""


def rank_device(device: str) -> str:
    """ "cuda" as this rank's own GPU; others as they are."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def api_world(device: torch.device, timeout_s: float) -> Communicator:
    """The world of a script: torchrun's, joined until the process ends, or one rank alone."""
    if dist.is_available() and dist.is_initialized():
        return present_world(device, timeout_s)
    if not in_torchrun():
        return SingleCommunicator()
    # Its functions have the group that there is when they are first imported as a default, and
    # diffusers imports them. A group that is kept has threads that live on after it was left, and
    # abort a process whose interpreter ends (pytorch/pytorch#190489).
    import torch.distributed.nn.functional  # noqa: F401

    stack = ExitStack()
    comm = stack.enter_context(joined_world(device, timeout_s))
    atexit.register(stack.close)
    return comm


@contextmanager
def command_world(
    device: torch.device,
    timeout_s: float,
    clean_up: Callable[[], None],
    ask: Callable[[], None],
) -> Iterator[Communicator]:
    """The world of a command: torchrun's or our launcher's, or one rank alone.

    clean_up  what to do, from another thread, before ending a rank that hangs when told to end
    ask       what the first signal does where this process leads itself: ask for a good end
    """
    launcher = os.getppid()
    if not in_torchrun():
        with ending_when_told(clean_up, asks_first=True), asking_first(ask):
            yield SingleCommunicator()
        return
    spawned = is_spawned()
    with (
        ending_when_told(
            clean_up,
            lambda: spawned and _is_orphan(launcher),
            told=note_told if spawned else lambda: None,
        ),
        joined_world(device, timeout_s, _meeting() if spawned else None) as comm,
    ):
        try:
            yield comm
        except Exception as error:
            # Before the world is left: the others take that for an error of their own.
            sys.exit(report_error(error))


def _meeting() -> Path:
    """Where ranks that our launcher spawned find each other.

    Over a file: torch's store over TCP listens on every interface, and its port, which is chosen
    seconds before rank 0 takes it, may be another's by then.
    """
    return Path(os.environ[FAILURES_DIR]) / "ranks"


def _is_orphan(launcher: int) -> bool:
    """Whether the launcher was killed, and left to us what it would have removed."""
    if os.getppid() == launcher:
        return False
    shutil.rmtree(os.environ[FAILURES_DIR], ignore_errors=True)
    return True


def launch_ranks(
    argv: Sequence[str],
    num_ranks: int,
    ask: Callable[[], None],
    pids: Callable[[], Mapping[int, int]],
) -> None:
    """Run a command line on `num_ranks` processes of this machine, until all are done.

    ask   what the first ending signal does: ask the ranks for a good end
    pids  process ids by rank, as far as they are known
    Raises UserError or RankFailedError with the error of the rank that failed first, and
    KeyboardInterrupt if a second signal ended it. No process is left behind.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    scratch = Path(tempfile.mkdtemp(prefix="video-infinity-"))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=str(scratch / "agents"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        signals_to_handle="",  # ours raise KeyboardInterrupt, which it takes as well
        logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
    )
    # -P: a file in the working directory must not stand in for a module.
    rank_argv = ("-P", "-m", "video_infinity", *argv)
    try:
        with (
            _tamed_elastic(),
            _environment(_rank_environment(num_ranks, scratch)),
            asking_first(ask),
            ending_stopped_ranks(scratch, pids),
        ):
            elastic_launch(config, sys.executable)(*rank_argv)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        raise first_failure(scratch, codes) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def local_environment(num_ranks: int) -> dict[str, str]:
    """Variables for ranks that are all on this machine, but those that the environment has."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    loopback = "lo" if sys.platform == "linux" else "lo0"
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cores // num_ranks)),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
    return {name: value for name, value in defaults.items() if name not in os.environ}


def _rank_environment(num_ranks: int, scratch: Path) -> dict[str, str]:
    return {
        **local_environment(num_ranks),
        FAILURES_DIR: str(scratch),
        "HF_HUB_OFFLINE": "1",  # the launcher has fetched what there is to fetch
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _tamed_elastic() -> Iterator[None]:
    """Torch elastic logs what we report ourselves, and keeps the handlers of signals."""
    before = {number: signal.getsignal(number) for number in heeded_signals()}
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)
