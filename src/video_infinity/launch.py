"""Ranks as processes: join the world that torchrun made, or make one on this machine.

A spawned rank runs the same command line as its launcher, under torch elastic, so that there is
one path for one machine and for several.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.comm.process import ProcessCommunicator, in_torchrun, joined_world
from video_infinity.errors import ExchangeError, RankFailedError, UserError

FAILURES_DIR = "VIDEO_INFINITY_FAILURES_DIR"
"""Set by our own launcher for the ranks that it spawns: where each leaves its error."""

EXIT_INTERRUPTED = 130


def rank_device(device: str) -> str:
    """ "cuda" as this rank's own GPU; others as they are."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def api_world(device: torch.device, timeout_s: float) -> Communicator:
    """The world of a script: torchrun's, joined until the process ends, or one rank alone."""
    if dist.is_available() and dist.is_initialized():
        return ProcessCommunicator(device, timeout_s)
    if not in_torchrun():
        return SingleCommunicator()
    stack = ExitStack()
    comm = stack.enter_context(joined_world(device, timeout_s))
    atexit.register(stack.close)
    return comm


@contextmanager
def command_world(
    device: torch.device, timeout_s: float, clean_up: Callable[[], None]
) -> Iterator[Communicator]:
    """The world of a command. A rank that is told to end does so at once, after `clean_up`.

    The signal is taken by a thread of its own, since a rank may be waiting inside a collective.
    """
    if not in_torchrun():
        yield SingleCommunicator()
        return
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def end() -> None:
        number = signal.sigwait(signals)
        clean_up()
        os._exit(128 + number)

    threading.Thread(target=end, daemon=True).start()
    with joined_world(device, timeout_s) as comm:
        yield comm


def is_spawned() -> bool:
    """Whether our own launcher, which reports errors itself, started this rank."""
    return FAILURES_DIR in os.environ


def leave_failure(error: BaseException) -> None:
    """Write this rank's error where the launcher looks for it."""
    failure = {
        "time": time.time(),
        "user": isinstance(error, UserError),
        "secondary": isinstance(error, ExchangeError),
        "message": describe(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    path = Path(os.environ[FAILURES_DIR]) / f"rank-{os.environ.get('RANK', '0')}.json"
    path.write_text(json.dumps(failure))


def describe(error: BaseException) -> str:
    """An error in one line; with its kind, unless it is one of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError | ExchangeError | RankFailedError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def launch_ranks(argv: Sequence[str], num_ranks: int) -> None:
    """Run this command line on `num_ranks` processes of this machine, until all are done.

    Raises UserError or RankFailedError with the error of the rank that failed first, and
    KeyboardInterrupt if a signal ended it. No process is left behind.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    scratch = Path(tempfile.mkdtemp(prefix="video-infinity-"))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
    )
    os.environ.update(_rank_environment(num_ranks, scratch))
    try:
        elastic_launch(config, sys.executable)("-m", "video_infinity", *argv)
    except ChildFailedError as error:
        raise _first_failure(scratch, error) from None
    except SignalException as error:
        raise KeyboardInterrupt from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _rank_environment(num_ranks: int, scratch: Path) -> dict[str, str]:
    environment = {
        FAILURES_DIR: str(scratch),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // num_ranks)),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    kept = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")
    return {k: v for k, v in environment.items() if k not in kept or k not in os.environ}


def _first_failure(scratch: Path, error: object) -> UserError | RankFailedError:
    """The error that began it: a rank's own before one that merely missed another rank."""
    found = []
    for path in scratch.glob("rank-*.json"):
        failure = json.loads(path.read_text())
        rank = int(path.stem.removeprefix("rank-"))
        found.append((failure["secondary"], failure["time"], rank, failure))
    silent = [
        (rank, f.exitcode)
        for rank, f in getattr(error, "failures", {}).items()
        if not (scratch / f"rank-{rank}.json").exists() and f.exitcode != -signal.SIGTERM
    ]
    if silent and all(secondary for secondary, *_ in found):
        rank, code = silent[0]
        return RankFailedError(rank, _how_it_ended(code))
    if not found:
        return RankFailedError(-1, "the ranks ended without a word")
    _, _, rank, failure = min(found, key=lambda entry: entry[:3])
    if failure["user"]:
        return UserError(failure["message"])
    return RankFailedError(rank, failure["message"], failure["traceback"])


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (
            " (out of memory?)" if code == -signal.SIGKILL else ""
        )
    return f"ended with exit code {code}"
