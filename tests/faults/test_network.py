"""The network between two machines is cut: two agents of torchrun in two network namespaces."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end import program
from tests.faults.injected import fired_at
from tests.faults.runs import (
    ENDS_WITHIN_S,
    SETTINGS,
    assert_resumes,
    environment,
    faults_of,
    steps_saved,
)

HOSTS = ("10.77.0.1", "10.77.0.2")
TIMEOUT_S = 10


class Wire:
    """Two network namespaces, as two machines, and the one wire between them."""

    def __init__(self) -> None:
        tag = uuid.uuid4().hex[:6]
        self.spaces = [f"video-infinity-{tag}-{side}" for side in "ab"]
        self.ends = [f"vi{tag}{side}" for side in "ab"]

    def lay(self) -> None:
        for space in self.spaces:
            ip("netns", "add", space)
        ends = zip(self.spaces, self.ends, HOSTS, strict=True)
        ip("link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
        for space, end, host in ends:
            ip("link", "set", end, "netns", space)
            ip("-n", space, "address", "add", f"{host}/24", "dev", end)
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", end, "up")

    def remove(self) -> None:
        for space in self.spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def wire() -> Iterator[Wire]:
    laid = Wire()
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need `ip` (Debian: iproute2)")
    try:
        laid.lay()
    except subprocess.CalledProcessError as error:
        laid.remove()
        pytest.skip(f"network namespaces need privileges: {error.stderr.decode().strip()}")
    try:
        yield laid
    finally:
        laid.remove()


def agents(wire: Wire, model: Path, cwd: Path, armed: tuple[str, ...]) -> list[program.Running]:
    started = []
    for node in (0, 1):
        torchrun = [
            *("ip", "netns", "exec", wire.spaces[node], sys.executable),
            *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
            *("--rdzv-backend", "c10d", "--rdzv-id", "test"),
            *("--rdzv-endpoint", f"{HOSTS[0]}:29400", "--rdzv-conf", f"is_host={1 - node}"),
            *("--local-addr", HOSTS[node], "-m", "video_infinity"),
        ]
        told = ["generate", "a b c", "--model", str(model), *SETTINGS]
        told += ["--timeout", str(TIMEOUT_S)]
        around = environment(cwd, armed) | {"GLOO_SOCKET_IFNAME": wire.ends[node]}
        started.append(program.Running(told, cwd, around, torchrun))
    return started


@pytest.mark.slow
def test_a_cut_network_is_a_failure_that_can_be_gone_on_from(
    wire: Wire, model: Path, whole: Path, here: Path
) -> None:
    cut = f"import subprocess; subprocess.run(['ip', 'link', 'set', '{wire.ends[0]}', 'down'])"
    started = agents(wire, model, here, (f"step:5:0:{cut}",))
    assert program.eventually(lambda: len(fired_at(faults_of(here))) == 1, 120)
    (moment,) = fired_at(faults_of(here))
    assert program.eventually(lambda: not any(running.ranks() for running in started), 60)
    assert time.time() - moment < ENDS_WITHIN_S
    # torchrun's other agent is left asking the first one's store, until TCP gives up.
    started[1].process.kill()
    finished = [running.finish(ENDS_WITHIN_S) for running in started]
    assert all(running.all_gone() for running in started)
    assert finished[0].returncode == 1
    for rank, ended in enumerate(finished):
        says = f"video-infinity: rank {rank}: error: rank {rank}: the exchange with another rank"
        assert says in ended.stderr, ended
        assert f"took longer than {TIMEOUT_S} s" in ended.stderr
    assert steps_saved(here / "v.run") == [2, 4]
    assert_resumes(here, whole)
