"""Promise 1 with a second axis: branches of guidance on ranks of their own, or one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import spawn

from tests.distributed.harness import (
    CASES,
    TOLERANCE,
    load,
    reference,
    relative_difference,
    run_case,
)
from tests.distributed.test_methods import WRONG_IS_BEYOND
from tests.tiny import save_tiny_model
from video_infinity.comm import Communicator, Message
from video_infinity.comm.process import joined_world
from video_infinity.comm.threads import run_ranks

NAMES = ("dual scope", "stochastic multistep", "prompts over time")


def video_on(name: str, ranks: int, cfg: int, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of the whole video and its frames."""
    case = CASES[name]
    adapters = [load(case, rank) for rank in range(ranks)]
    results = run_ranks(ranks, lambda comm: run_case(case, comm, adapters[comm.rank], **more))
    return torch.cat([latents for latents, _ in results[::cfg]], 1), results[0][1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("ranks", "cfg", "options"),
    [
        (2, 2, {"parallel": "cfg=2"}),
        (4, 2, {"parallel": "cfg=2,clip=2"}),
        (1, 1, {"sequential_guidance": True}),
        (3, 1, {"sequential_guidance": True}),
    ],
)
def test_branches_apart_give_the_same_video(
    name: str, ranks: int, cfg: int, options: dict[str, Any]
) -> None:
    latents, frames = video_on(name, ranks, cfg, **options)
    expected_latents, expected_frames = reference(CASES[name])
    assert relative_difference(latents, expected_latents) < TOLERANCE
    assert int((frames.int() - expected_frames.int()).abs().max()) <= 1


def test_a_branch_that_is_swapped_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above could not tell the branches apart."""
    from video_infinity.mesh import Mesh

    monkeypatch.setattr(Mesh, "branch_of", lambda self, rank: 1 - rank % self.cfg)
    latents, _ = video_on("dual scope", 2, 2, parallel="cfg=2")
    assert relative_difference(latents, reference(CASES["dual scope"])[0]) > 1e-2


def test_a_group_of_ranks_talks_among_itself_and_counts_for_all() -> None:
    def work(comm: Communicator) -> tuple[int, int, list[int], int]:
        group = comm.subgroup([[0, 2], [1, 3]])
        rows, pending = group.gather(torch.tensor([comm.rank]))
        pending.wait()
        buffer = torch.zeros(1, dtype=torch.int64)
        peer = 1 - group.rank
        own = torch.tensor([10 * comm.rank])
        group.post([Message(peer, own)], [Message(peer, buffer)]).wait()
        return group.rank, group.size, [*rows.flatten().tolist(), int(buffer)], comm.bytes_received

    assert run_ranks(4, work) == [
        (0, 2, [0, 2, 20], 16),
        (0, 2, [1, 3, 30], 16),
        (1, 2, [0, 2, 0], 16),
        (1, 2, [1, 3, 10], 16),
    ]


def _in_nested_groups(rank: int, meeting: Path, results: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "4"}
    with joined_world(torch.device("cpu"), 60, meeting, shares_memory=False) as comm:
        group = comm.subgroup([[0, 1, 3], [2]])
        if rank != 2:
            group = group.subgroup([[0, 2], [1]])
        rows, pending = group.gather(torch.tensor([10 * rank]))
        pending.wait()
        comm.barrier()
        (results / str(rank)).write_text(json.dumps(rows.flatten().tolist()))


def test_processes_make_groups_of_groups_without_the_others(tmp_path: Path) -> None:
    """Groups of any size; the rank that is in none of the inner ones makes none."""
    spawn(_in_nested_groups, (tmp_path / "meeting", tmp_path), nprocs=4)
    gathered = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(4)]
    assert gathered == [[0, 30], [10], [20], [0, 30]]


def test_processes_in_a_mesh_give_the_video_of_one_rank(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")

    def latents(name: str, *more: str) -> torch.Tensor:
        words = ("generate", "a b", "--quiet", "--model", str(model), "--num-frames", "21")
        files = ("--output", str(tmp_path / f"{name}.mp4"), "--report", str(tmp_path / name))
        saved = tmp_path / f"{name}.safetensors"
        subprocess.run(
            [
                *(sys.executable, "-m", "video_infinity", *words, *files),
                *("--num-inference-steps", "3", "--height", "16", "--width", "16"),
                *("--save-latents", str(saved), *more),
            ],
            check=True,
            timeout=280,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return load_file(saved)["latents"]

    meshed = latents("mesh", "--parallel", "cfg=2,clip=2")
    assert relative_difference(meshed, latents("one")) < TOLERANCE
    clips = json.loads((tmp_path / "mesh").read_text())["clips"]
    assert clips == [[0, 10], [0, 10], [10, 21], [10, 21]]
    fronts = ("--front-frames", "1", "--front-span", "99", "--local-frames", "1")
    four = latents("four in fronts", "--nproc-per-node", "4", *fronts)
    assert relative_difference(four, latents("one in fronts", *fronts)) < TOLERANCE
    assert relative_difference(four, meshed) > WRONG_IS_BEYOND
