"""Several machines, as two agents of torchrun on this one: the video of one rank."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.distributed.harness import TOLERANCE, relative_difference
from tests.end_to_end import program
from video_infinity import cli

LONG_PROMPT = "a b c d e f g h i j k l m n"
"""More than the tiny text encoder reads: every rank notices, one warns."""
RENDEZVOUS = {
    "c10d": "--rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --rdzv-id test",
    "static": "--master-addr 127.0.0.1 --master-port {port} --node-rank {node}",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def agents(kind: str, words: list[Any], cwd: Path) -> list[program.Running]:
    """Two machines' torchrun with one rank each, started together."""
    port = free_port()
    started = []
    for node in (0, 1):
        meeting = RENDEZVOUS[kind].format(port=port, node=node).split()
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--local-addr", "127.0.0.1"]
        torchrun += ["--nnodes", "2", "--nproc-per-node", "1", *meeting, "-m", "video_infinity"]
        started.append(program.Running(words, cwd, {"GLOO_SOCKET_IFNAME": "lo"}, torchrun))
    return started


def words_for(model: Path, name: str) -> list[Any]:
    sizes = ["--num-frames", "7", "--num-inference-steps", "2", "--local-frames", "2"]
    files = ["--output", name, "--save-latents", f"{name}.safetensors"]
    return ["generate", LONG_PROMPT, "--model", str(model), *sizes, *files, "--quiet"]


def read_pngs(directory: Path) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(directory.iterdir())])


@pytest.mark.parametrize("kind", ["c10d", pytest.param("static", marks=pytest.mark.slow)])
def test_two_agents_give_the_video_of_one_rank(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(words_for(tiny_model, "one")) == 0
    started = agents(kind, words_for(tiny_model, "two"), tmp_path)
    finished = [running.finish() for running in started]
    assert [run.returncode for run in finished] == [0, 0], finished
    one, two = (load_file(f"{name}.safetensors")["latents"] for name in ("one", "two"))
    assert relative_difference(two, one) < TOLERANCE
    assert np.abs(read_pngs(Path("one")).astype(int) - read_pngs(Path("two"))).max() <= 1
    warnings = [line for run in finished for line in run.stderr.splitlines() if "warning:" in line]
    assert len([line for line in warnings if line.startswith("video-infinity: rank 0:")]) == 1
    assert not [line for line in warnings if line.startswith("video-infinity: rank 1:")]
    assert all(running.all_gone() for running in started)


@pytest.mark.slow
def test_a_signal_to_torchrun_leaves_no_half_file(tiny_model: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    running = program.Running(
        [*words_for(tiny_model, "v"), "--num-inference-steps", "1000", "--log-json"],
        tmp_path,
        program=[*torchrun, "--nproc-per-node", "2", "-m", "video_infinity"],
    )
    running.wait_for("step")
    running.process.send_signal(signal.SIGTERM)
    assert running.finish().returncode != 0
    assert running.all_gone()
    assert [path.name for path in tmp_path.iterdir()] == ["v.run"], "what it can be resumed from"


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    def become(rank: int) -> list[object]:
        """Be one of torchrun's two ranks, up to where it would meet the other."""
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        runs: list[object] = []
        monkeypatch.setattr("video_infinity.command.run_rank", lambda *given: runs.append(given))
        return runs

    return become


def test_torchrun_decides_on_the_ranks(
    as_rank: Any, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = as_rank(1)
    assert cli.run(["generate", "a", "--model", str(tiny_model), "--nproc-per-node", "2"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("video-infinity: rank 1: error: --nproc-per-node 2: torchrun")
    assert not runs


@pytest.mark.parametrize(("rank", "code"), [(0, 2), (1, 0)])
def test_rank_0_alone_looks_at_the_destination(
    rank: int, code: int, as_rank: Any, tiny_model: Path, tmp_path: Path
) -> None:
    runs = as_rank(rank)
    output = str(tmp_path / "missing" / "v.mp4")
    assert cli.run(["generate", "a", "--model", str(tiny_model), "--output", output]) == code
    assert len(runs) == (code == 0)


def test_frames_are_shared_over_all_machines(
    as_rank: Any, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    as_rank(0)
    assert cli.run(["generate", "a", "--model", str(tiny_model), "--num-frames", "1"]) == 2
    assert "fewer than 2 ranks" in capfd.readouterr().err
