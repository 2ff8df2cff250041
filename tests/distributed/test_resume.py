"""A denoise that was interrupted and gone on with is the one that was not.

Bit for bit on the same number of ranks; on another, to the tolerance that holds between numbers
of ranks at all. Ranks are threads; tests/faults has real processes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch

from tests.distributed import harness, wan_harness
from tests.distributed.harness import PROMPTS_OVER_TIME, TOLERANCE, on_threads, relative_difference
from tests.faults.injected import evil_pickle
from video_infinity.adapters import Adapter
from video_infinity.cadence import Cadence
from video_infinity.comm import Communicator
from video_infinity.config import resolve
from video_infinity.engine import ClipRun
from video_infinity.interrupts import RunStopped
from video_infinity.keeper import Keeper
from video_infinity.planning import make_plan
from video_infinity.rundir import RunDir, whole_looking
from video_infinity.sealed import read_sealed, write_sealed

STEPS, STOPPED_AFTER = 6, 3
SCOPES = {"local_frames": 2, "global_frames": 3}
SHORT = {**SCOPES, "num_frames": 11}

CASES: dict[str, tuple[ModuleType, Any]] = {
    "multistep, UniPC": (
        harness,
        harness.Case(scheduler="UniPCMultistepScheduler", options=SHORT),
    ),
    "multistep, stochastic, rotating global context, prompts over time": (
        harness,
        harness.Case(
            scheduler="DPMSolverMultistepScheduler",
            scheduler_options={"algorithm_type": "sde-dpmsolver++"},
            timeline=PROMPTS_OVER_TIME,
            options={**SCOPES, "global_rule": "rotating"},
        ),
    ),
    "stochastic, rotating global context": (
        harness,
        harness.Case(
            scheduler="EulerAncestralDiscreteScheduler",
            options={**SHORT, "global_rule": "rotating"},
        ),
    ),
    "multidiffusion": (
        harness,
        harness.Case(
            scheduler="UniPCMultistepScheduler",
            options={"method": "multidiffusion", "window_frames": 5, "num_frames": 11},
        ),
    ),
    "independent clips": (
        harness,
        harness.Case(options={"method": "independent", "window_frames": 4, "num_frames": 11}),
    ),
    "fronts": (
        harness,
        harness.Case(options={**SHORT, "eta": 1.0, "front_frames": 4, "front_span": 16}),
    ),
    "fronts, UniPC": (
        harness,
        harness.Case(
            scheduler="UniPCMultistepScheduler",
            options={**SHORT, "front_frames": 4, "front_span": 16},
        ),
    ),
    "no state at all": (harness, harness.Case(options=SHORT)),
    "Wan, UniPC": (wan_harness, wan_harness.Case(options={**SCOPES, "num_frames": 33})),
}
MULTISTEP = "multistep, UniPC"
ALL_AT_ONCE = "multistep, stochastic, rotating global context, prompts over time"


def denoise(
    name: str,
    size: int,
    run_dir: RunDir | None = None,
    stop_after: int | None = None,
    parallel: str | None = None,
    *,
    blind: int | None = None,
    warnings: list[str] | None = None,
) -> torch.Tensor | None:
    """The whole video's final latents; None if the run was stopped.

    blind     a rank whose machine has no such directory
    warnings  takes what rank 0 is warned of
    """
    module, case = CASES[name]

    def work(comm: Communicator, adapter: Adapter) -> torch.Tensor | None:
        request = resolve(
            module.request_of(case, num_inference_steps=STEPS, parallel=parallel),
            adapter.facts.defaults,
        )

        def observer(event: str, **data: Any) -> None:
            if comm.rank == 0 and event == "step" and data["step"] == stop_after:
                assert run_dir is not None
                run_dir.ask_to_stop("signal")
            if comm.rank == 0 and event == "warning" and warnings is not None:
                warnings.append(data["message"])

        keeper = None
        if run_dir is not None:
            mine = RunDir(run_dir.path / "nowhere" if comm.rank == blind else run_dir.path)
            keeper = Keeper(mine, run_dir.read_manifest()["run"], comm, Cadence.parse(2), observer)
        plan = make_plan(request, adapter.facts, comm.size)
        run = ClipRun(request, adapter, comm, plan, observer, keeper)
        try:
            return run.denoise()[0]
        except RunStopped:
            return None

    parts = on_threads(size, lambda rank: module.load(case, rank), work)
    if parts[0] is None:
        assert all(part is None for part in parts), "all ranks end alike"
        return None
    a_clip = 2 if parallel else 1  # ranks of one clip
    return torch.cat([part for part in parts[::a_clip] if part is not None], 1)


@cache
def undisturbed(name: str, size: int) -> torch.Tensor | None:
    return denoise(name, size)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "v.run")
    made.create({}, overwrite=False)
    return made


def interrupted(name: str, size: int, run_dir: RunDir) -> None:
    assert denoise(name, size, run_dir, stop_after=STOPPED_AFTER) is None
    assert whole_looking(run_dir.checkpoints) == [3, 2]
    run_dir.begin_attempt()


@pytest.mark.parametrize("name", CASES)
def test_the_same_ranks_give_the_same_bits(name: str, run_dir: RunDir) -> None:
    whole = undisturbed(name, 2)
    interrupted(name, 2, run_dir)
    resumed = denoise(name, 2, run_dir)
    assert whole is not None and resumed is not None
    assert torch.equal(resumed, whole)
    longest_wait = 2 if "fronts" in name else 0
    assert whole_looking(run_dir.checkpoints)[0] == STEPS + longest_wait


@pytest.mark.parametrize("mesh_first", [True, False])
def test_a_mesh_goes_on_as_one_rank_and_back(mesh_first: bool, run_dir: RunDir) -> None:
    """Ranks that hold the same clip share it out when they save."""
    before, after = ((4, "cfg=2"), (1, None)) if mesh_first else ((1, None), (4, "cfg=2"))
    whole = undisturbed(MULTISTEP, 1)
    stopped = denoise(MULTISTEP, before[0], run_dir, STOPPED_AFTER, parallel=before[1])
    assert stopped is None
    run_dir.begin_attempt()
    resumed = denoise(MULTISTEP, after[0], run_dir, parallel=after[1])
    assert whole is not None and resumed is not None
    assert relative_difference(resumed, whole) < TOLERANCE


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("name", [MULTISTEP, ALL_AT_ONCE, "fronts", "fronts, UniPC"])
def test_other_ranks_give_the_same_video(
    name: str, before: int, after: int, run_dir: RunDir
) -> None:
    whole = undisturbed(name, 1)
    interrupted(name, before, run_dir)
    resumed = denoise(name, after, run_dir)
    assert whole is not None and resumed is not None
    assert relative_difference(resumed, whole) < TOLERANCE


def test_wan_goes_on_on_other_ranks(run_dir: RunDir) -> None:
    whole = undisturbed("Wan, UniPC", 1)
    interrupted("Wan, UniPC", 3, run_dir)
    resumed = denoise("Wan, UniPC", 2, run_dir)
    assert whole is not None and resumed is not None
    assert relative_difference(resumed, whole) < TOLERANCE


def test_without_the_history_it_would_be_another_video(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = undisturbed(MULTISTEP, 2)
    interrupted(MULTISTEP, 2, run_dir)

    def forget(scheduler: Any, plain: Any, tensors: Any) -> None:
        scheduler._step_index = plain["state"]["_step_index"]

    monkeypatch.setattr("video_infinity.history.restore", forget)
    resumed = denoise(MULTISTEP, 2, run_dir)
    assert whole is not None and resumed is not None
    assert relative_difference(resumed, whole) > 10 * TOLERANCE


@pytest.mark.parametrize("harm", ["cut", "flip", "no marker", "no file", "pickle", "other run"])
def test_a_checkpoint_that_is_not_whole_is_left_out(
    harm: str, run_dir: RunDir, tmp_path: Path
) -> None:
    whole = undisturbed(MULTISTEP, 2)
    interrupted(MULTISTEP, 2, run_dir)
    harm_checkpoint(run_dir.checkpoints / "step-00003", harm, tmp_path)
    resumed = denoise(MULTISTEP, 2, run_dir)
    assert whole is not None and resumed is not None
    assert torch.equal(resumed, whole)
    assert not (tmp_path / "code has run").exists()


def harm_checkpoint(directory: Path, harm: str, tmp_path: Path) -> None:
    marker = directory / "marker.json"
    *_, file = sorted(directory.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(data[:-1])
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif harm == "no marker":
        marker.unlink()
    elif harm == "no file":
        file.unlink()
    elif harm == "pickle":
        file.write_bytes(evil_pickle(tmp_path / "code has run"))
    else:
        write_sealed(marker, {**read_sealed(marker), "run": "another"})


def test_when_none_is_whole_it_begins_anew(run_dir: RunDir, tmp_path: Path) -> None:
    whole = undisturbed(MULTISTEP, 2)
    interrupted(MULTISTEP, 2, run_dir)
    for step in (2, 3):
        harm_checkpoint(run_dir.checkpoints / f"step-{step:05d}", "flip", tmp_path)
    resumed = denoise(MULTISTEP, 2, run_dir)
    assert whole is not None and resumed is not None
    assert torch.equal(resumed, whole)


def test_machines_that_do_not_share_the_directory_make_no_checkpoints(run_dir: RunDir) -> None:
    whole, warnings = undisturbed(MULTISTEP, 2), list[str]()
    made = denoise(MULTISTEP, 2, run_dir, blind=1, warnings=warnings)
    assert whole is not None and made is not None
    assert torch.equal(made, whole)
    (line,) = warnings
    assert line.startswith("rank 1 does not see ") and "name a --run-dir that all" in line
    assert whole_looking(run_dir.checkpoints) == []


def test_a_scheduler_that_cannot_be_saved_makes_no_checkpoints(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, warnings = undisturbed(MULTISTEP, 2), list[str]()
    step = diffusers.UniPCMultistepScheduler.step

    def remembering(self: Any, *args: Any, **options: Any) -> Any:
        self.memo = object()
        return step(self, *args, **options)

    monkeypatch.setattr(diffusers.UniPCMultistepScheduler, "step", remembering)
    made = denoise(MULTISTEP, 2, run_dir, warnings=warnings)
    assert whole is not None and made is not None
    assert torch.equal(made, whole)
    (line,) = warnings
    assert "UniPCMultistepScheduler.memo holds a object, which cannot be saved" in line
    assert whole_looking(run_dir.checkpoints) == []
