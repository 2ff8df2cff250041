"""A run that faults happen to: its words, how it is gone on with, and what it must give."""

from __future__ import annotations

import time
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import torch
from safetensors.torch import load_file

from tests.distributed.harness import TOLERANCE, relative_difference
from tests.end_to_end import program
from tests.end_to_end.test_command import read_pngs
from tests.faults.injected import fired_at, injected

PROMPT = "a b c"
STEPS = 6
SETTINGS = [
    *("--num-frames", "13", "--height", "16", "--width", "16", "--guidance-scale", "3"),
    *("--num-inference-steps", str(STEPS), "--local-frames", "2", "--global-frames", "3"),
    *("--checkpoint-every", "2", "--save-latents", "z.safetensors", "--output", "v", "--quiet"),
]
ENDS_WITHIN_S = 30
"""From a fault to the end of the last process. docs/reliability.md has 7 s at most, on two cores
that do nothing else."""


def words(model: Path, *more: str, num_ranks: int = 2) -> list[str]:
    ranks = ("--nproc-per-node", str(num_ranks))
    return ["generate", PROMPT, "--model", str(model), *SETTINGS, *ranks, *more]


def generate(
    model: Path, cwd: Path, *more: str, num_ranks: int = 2, armed: tuple[str, ...] = ()
) -> CompletedProcess[str]:
    """A run to its end, which comes soon if one of the faults ends it."""
    return to_its_end(words(model, *more, num_ranks=num_ranks), cwd, armed)


def to_its_end(told: list[str], cwd: Path, armed: tuple[str, ...]) -> CompletedProcess[str]:
    before = len(fired_at(faults_of(cwd))) if armed else 0
    finished = program.run(*told, cwd=cwd, environment=environment(cwd, armed))
    if armed:
        moments = fired_at(faults_of(cwd))
        assert len(moments) > before, f"no fault has happened: {finished}"
        if finished.returncode:
            assert time.time() - max(moments) < ENDS_WITHIN_S
    return finished


def environment(cwd: Path, armed: tuple[str, ...]) -> dict[str, str]:
    return injected(faults_of(cwd), *armed) if armed else {}


def faults_of(cwd: Path) -> Path:
    """Where the faults of a run are noted: beside its directory, so that its own stays empty."""
    directory = cwd.with_name(cwd.name + " faults")
    directory.mkdir(exist_ok=True)
    return directory


def resume(
    cwd: Path, *more: str, num_ranks: int = 2, armed: tuple[str, ...] = ()
) -> CompletedProcess[str]:
    told = ["resume", "v.run", "--quiet", "--nproc-per-node", str(num_ranks), *more]
    return to_its_end(told, cwd, armed)


def assert_resumes(cwd: Path, whole: Path) -> None:
    """It can be gone on with on as many ranks, and gives what the undisturbed run gave."""
    resumed = resume(cwd)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(cwd, whole)


def assert_same(cwd: Path, whole: Path) -> None:
    """The files of both runs are equal, and nothing else is left."""
    assert np.array_equal(read_pngs(cwd / "v"), read_pngs(whole / "v"))
    assert torch.equal(latents(cwd), latents(whole))
    assert {p.name for p in cwd.iterdir()} == {"v", "z.safetensors"}


def assert_as_promised(cwd: Path, whole: Path) -> None:
    """The same video up to what is promised between numbers of ranks."""
    assert relative_difference(latents(cwd), latents(whole)) < TOLERANCE
    difference = read_pngs(cwd / "v").astype(int) - read_pngs(whole / "v")
    assert np.abs(difference).max() <= 1


def latents(cwd: Path) -> torch.Tensor:
    return load_file(cwd / "z.safetensors")["latents"]


def steps_saved(run_dir: Path) -> list[int]:
    found = sorted((run_dir / "checkpoints").glob("step-*/marker.json"))
    return [int(marker.parent.name.removeprefix("step-")) for marker in found]


def last_line(finished: CompletedProcess[str]) -> str:
    return finished.stderr.splitlines()[-1]
