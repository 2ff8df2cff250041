"""Promise 1: the video does not show how many ranks made it, nor how the frames were shared out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.harness import (
    CASES,
    NUM_FRAMES,
    ON_PROCESSES,
    TOLERANCE,
    Case,
    reference,
    relative_difference,
    run_case,
)
from video_infinity.comm.threads import run_ranks

SIZES = (2, 3, 5)


@cache
def one_rank(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return reference(CASES[name])


def assert_same_video(name: str, latents: torch.Tensor, frames_FHWC: torch.Tensor) -> None:
    expected_latents, expected_frames = one_rank(name)
    assert latents.shape[1] == frames_FHWC.shape[0] == NUM_FRAMES
    assert relative_difference(latents, expected_latents) < TOLERANCE
    assert int((frames_FHWC.int() - expected_frames.int()).abs().max()) <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CASES)
def test_threads_give_the_video_of_one_rank(name: str, size: int) -> None:
    results = run_ranks(size, lambda comm: run_case(CASES[name], comm))
    assert_same_video(name, torch.cat([latents for latents, _ in results], 1), results[0][1])


@pytest.fixture(scope="module", params=SIZES)
def gloo_results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, torch.Tensor]]:
    """Those cases on that many gloo processes, spawned once."""
    size, directory = request.param, tmp_path_factory.mktemp("gloo")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.worker", str(directory)],
            env=environment | {"RANK": str(rank)},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(size)
    ]
    assert [rank.wait(timeout=280) for rank in ranks] == [0] * size
    return [load_file(directory / f"{rank}.safetensors") for rank in range(size)]


@pytest.mark.parametrize("name", ON_PROCESSES)
def test_processes_give_the_video_of_one_rank(
    name: str, gloo_results: list[dict[str, torch.Tensor]]
) -> None:
    latents = torch.cat([tensors[f"{name}/latents"] for tensors in gloo_results], 1)
    assert_same_video(name, latents, gloo_results[0][f"{name}/frames"])


def test_seed_and_prompt_matter() -> None:
    expected, _ = one_rank("dual scope")
    case = CASES["dual scope"]
    other_seed, _ = reference(case, seed=1)
    other_prompt, _ = reference(Case(timeline="x y z", options=case.options))
    assert relative_difference(other_seed, expected) > 0.1
    assert relative_difference(other_prompt, expected) > 0.01


def test_independent_clips_do_differ() -> None:
    """The one method whose video shows its placement: else this file proves nothing."""
    case = CASES["dual scope"]
    results = run_ranks(2, lambda comm: run_case(case, comm, method="independent"))
    latents = torch.cat([latents for latents, _ in results], 1)
    assert relative_difference(latents, one_rank("dual scope")[0]) > 0.01
