"""Faults in real processes, and the video that comes of the run all the same."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from safetensors.torch import load_file

from tests.distributed.harness import TOLERANCE, relative_difference
from tests.end_to_end import program
from tests.end_to_end.faults import (
    HANG,
    KILL,
    NO_MEMORY,
    NO_ROOM,
    RAISE,
    STOP,
    TELL_LAUNCHER,
    faults,
)
from tests.end_to_end.test_command import read_pngs
from tests.tiny import save_tiny_model
from tests.tiny_wan import save_tiny_wan

STEPS = 6
SETTINGS = [
    *("--num-frames", "13", "--height", "32", "--width", "32", "--guidance-scale", "3"),
    *("--num-inference-steps", str(STEPS), "--local-frames", "2", "--global-frames", "3"),
    *("--checkpoint-every", "2", "--save-latents", "z.safetensors", "--output", "v", "--quiet"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny", scheduler=UniPCMultistepScheduler()
    )


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing happened to, on two ranks."""
    cwd = tmp_path_factory.mktemp("whole")
    finished = generate(model, cwd)
    assert finished.returncode == 0, finished.stderr
    assert not (cwd / "v.run").exists(), "what a run that is done leaves is its files"
    return cwd


def words(model: Path, *more: str, num_ranks: int = 2) -> list[str]:
    ranks = ("--nproc-per-node", str(num_ranks))
    return ["generate", "a b c", "--model", str(model), *SETTINGS, *ranks, *more]


def generate(
    model: Path, cwd: Path, *more: str, num_ranks: int = 2, armed: tuple[str, ...] = ()
) -> CompletedProcess[str]:
    return program.run(
        *words(model, *more, num_ranks=num_ranks), cwd=cwd, environment=environment(cwd, armed)
    )


def environment(cwd: Path, armed: tuple[str, ...]) -> dict[str, str]:
    if not armed:
        return {}
    directory = cwd.with_name(cwd.name + " faults")
    directory.mkdir(exist_ok=True)
    return faults(directory, *armed)


def resume(cwd: Path, *more: str, num_ranks: int = 2) -> CompletedProcess[str]:
    return program.run(
        "resume", "v.run", "--quiet", "--nproc-per-node", str(num_ranks), *more, cwd=cwd
    )


def assert_same(cwd: Path, whole: Path) -> None:
    """The files of both runs are equal, and nothing else is left."""
    assert np.array_equal(read_pngs(cwd / "v"), read_pngs(whole / "v"))
    assert torch.equal(latents(cwd), latents(whole))
    assert {p.name for p in cwd.iterdir()} == {"v", "z.safetensors"}


def latents(cwd: Path) -> torch.Tensor:
    return load_file(cwd / "z.safetensors")["latents"]


def steps_saved(cwd: Path) -> list[int]:
    found = sorted((cwd / "v.run" / "checkpoints").glob("step-*/marker.json"))
    return [int(marker.parent.name.removeprefix("step-")) for marker in found]


def last_line(finished: CompletedProcess[str]) -> str:
    return finished.stderr.splitlines()[-1]


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(
    model: Path, whole: Path, tmp_path: Path
) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, armed=(f"step:6:1:{KILL}",))
    assert failed.returncode == 1
    assert "rank 1 failed: killed by SIGKILL" in last_line(failed)
    assert f"video-infinity resume {shlex.quote(str(cwd / 'v.run'))}\n" in failed.stderr
    assert steps_saved(cwd) == [2, 4]
    again = generate(model, cwd)
    assert again.returncode == 2 and "can be gone on with" in again.stderr
    resumed = resume(cwd)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(cwd, whole)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("where", ["load:1", "step:1", "layer:3", "save:1", "save:2", "decode:1"])
def test_kill_anywhere_and_go_on(
    where: str, rank: int, model: Path, whole: Path, tmp_path: Path
) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, armed=(f"{where}:{rank}:{KILL}",))
    assert failed.returncode == 1, failed.stderr
    assert f"rank {rank} failed: killed by SIGKILL" in last_line(failed)
    resumed = resume(cwd)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(cwd, whole)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["commit:1", "commit:2", "finish:1"])
def test_kill_rank_0_at_what_it_alone_does(
    where: str, model: Path, whole: Path, tmp_path: Path
) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, armed=(f"{where}:0:{KILL}",))
    assert failed.returncode == 1, failed.stderr
    assert resume(cwd).returncode == 0
    assert_same(cwd, whole)


@pytest.mark.slow
def test_a_death_after_the_last_act_is_no_failure(model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    finished = generate(model, cwd, armed=(f"renamed:1:0:{KILL}",))
    assert finished.returncode == 0, finished.stderr
    assert_same(cwd, whole)


@pytest.mark.slow
def test_it_goes_on_by_itself(model: Path, whole: Path, tmp_path: Path) -> None:
    """Three failures, three restarts; each goes on from the last checkpoint."""
    cwd = tmp_path / "here"
    cwd.mkdir()
    armed = (
        f"step:3:1:{KILL}",
        "layer:7:0:raise ArithmeticError('one and one')",
        f"finish:1:0:{KILL}",
    )
    finished = generate(model, cwd, "--max-restarts", "3", armed=armed)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("the run goes on by itself") == 3
    assert_same(cwd, whole)


def ready(running: program.Running) -> None:
    """Wait until both ranks are there, or the run is over."""
    process = running.process
    assert program.eventually(lambda: len(running.ranks()) == 2 or process.poll() is not None, 120)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_at_random_moments(model: Path, whole: Path, tmp_path: Path) -> None:
    """Up to twenty of one run, seeded; it completes in the end, with the same video."""
    cwd = tmp_path / "here"
    cwd.mkdir()
    draw, kills = random.Random(5), 0
    started = words(model, "--checkpoint-every", "1")
    while kills < 20:
        running = program.Running(started, cwd)
        ready(running)
        time.sleep(draw.uniform(0, 12))
        ranks, victim = running.ranks(), draw.randrange(2)
        if len(ranks) == 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ranks[victim], signal.SIGKILL)
        finished = running.finish()
        assert running.all_gone()
        if finished.returncode == 0:
            break
        assert "killed by SIGKILL" in last_line(finished), finished
        kills += 1
        started = ["resume", "v.run", "--quiet", "--nproc-per-node", "2"]
    else:
        assert resume(cwd).returncode == 0
    assert kills > 3
    assert_same(cwd, whole)


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_on_other_ranks(num_ranks: int, model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    assert generate(model, cwd, armed=(f"step:4:0:{KILL}",)).returncode == 1
    assert resume(cwd, num_ranks=num_ranks).returncode == 0
    assert relative_difference(latents(cwd), latents(whole)) < TOLERANCE
    difference = read_pngs(cwd / "v").astype(int) - read_pngs(whole / "v")
    assert np.abs(difference).max() <= 1


@pytest.mark.slow
def test_wan_goes_on_in_the_middle_of_decoding(tmp_path: Path) -> None:
    model = save_tiny_wan(tmp_path / "wan")
    frames = ("--num-frames", "61")
    whole, cwd = tmp_path / "whole", tmp_path / "here"
    whole.mkdir()
    cwd.mkdir()
    assert generate(model, whole, *frames).returncode == 0
    every = ("--checkpoint-every", "1")
    assert generate(model, cwd, *frames, *every, armed=(f"decode:2:1:{KILL}",)).returncode == 1
    spooled = json.loads((cwd / "v.run" / "spool" / "marker.json").read_text())["body"]
    assert spooled["chunk"] == 2 and spooled["frames"] == 29
    assert resume(cwd).returncode == 0
    assert_same(cwd, whole)


def test_ctrl_c_saves_and_says_how_to_go_on(model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    stopped = generate(model, cwd, armed=(f"step:3:0:{TELL_LAUNCHER}",))
    assert stopped.returncode == 130, stopped.stderr
    assert last_line(stopped) == "video-infinity: interrupted"
    assert "video-infinity resume " in stopped.stderr
    assert steps_saved(cwd)[-1] in (3, 4, 5), "not only at every second step"
    assert {p.name for p in cwd.iterdir()} == {"v.run"}
    resumed = resume(cwd)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(cwd, whole)


@pytest.mark.slow
def test_a_second_signal_ends_at_once(model: Path, tmp_path: Path) -> None:
    """A step that lasts a minute is not waited for."""
    cwd = tmp_path / "here"
    cwd.mkdir()
    armed = environment(cwd, ("layer:9:0:time.sleep(60)",))
    running = program.Running(words(model, "--log-json"), cwd, armed)
    running.wait_for("phase")
    fired = cwd.with_name(cwd.name + " faults")
    assert program.eventually(lambda: any(fired.glob("fired*")), 120)
    running.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert running.process.poll() is None
    begin = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    assert running.finish().returncode == 130
    assert time.monotonic() - begin < 20
    assert running.all_gone()


@pytest.mark.slow
def test_a_stopped_rank_is_a_failure(model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, armed=(f"step:4:1:{STOP}",))
    assert failed.returncode == 1
    assert "rank 1 failed: stopped by a signal (SIGSTOP)" in last_line(failed)
    assert resume(cwd).returncode == 0
    assert_same(cwd, whole)


@pytest.mark.slow
def test_cancel_and_status_from_another_process(model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    armed = environment(cwd, ("step:2:0:time.sleep(3)",))
    running = program.Running([*words(model), "--log-json"], cwd, armed)
    running.wait_for("step")
    told = json.loads(program.run("status", "v.run", "--log-json", cwd=cwd).stdout)
    assert told["state"] == "running" and told["num_steps"] == STEPS
    assert [entry["pid"] for entry in told["ranks"].values()] == running.ranks()
    assert program.run("cancel", "v.run", cwd=cwd).returncode == 0
    finished = running.finish()
    assert finished.returncode == 130
    assert finished.stderr.splitlines()[-1] == "video-infinity: cancelled"
    told = json.loads(program.run("status", "v.run", "--log-json", cwd=cwd).stdout)
    assert told["state"] == "cancelled" and told["step"] < STEPS
    assert program.run("cancel", "v.run", cwd=cwd).returncode == 2
    assert resume(cwd).returncode == 0
    assert_same(cwd, whole)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_no_room_for_a_checkpoint(rank: int, model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, armed=(f"save:2:{rank}:{NO_ROOM}",))
    assert failed.returncode == 1
    assert "No space left on device; earlier ones are as they were" in last_line(failed)
    assert steps_saved(cwd) == [2]
    assert resume(cwd).returncode == 0
    assert_same(cwd, whole)


@pytest.mark.slow
def test_no_room_for_pictures(model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, armed=(f"picture:2:0:{NO_ROOM}",))
    assert failed.returncode == 1
    assert "finished pictures could not be kept" in last_line(failed)
    assert steps_saved(cwd)[-1] == STEPS, "nothing is denoised again"
    assert resume(cwd).returncode == 0
    assert_same(cwd, whole)


@pytest.mark.slow
def test_a_full_disk(model: Path, whole: Path, tmp_path: Path) -> None:
    """A real one: a small file system in memory, filled up in the middle of the run."""
    disk, cwd = tmp_path / "disk", tmp_path / "here"
    disk.mkdir()
    cwd.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting needs privileges")
    try:
        fill = f"open('{disk}/other', 'wb').write(bytes(2**23))"
        failed = generate(
            model, cwd, "--run-dir", str(disk / "run"), armed=(f"step:3:0:{suppressing(fill)}",)
        )
        assert failed.returncode == 1, failed
        assert "No space left on device; earlier ones are as they were" in last_line(failed)
        (disk / "other").unlink()
        resumed = program.run("resume", str(disk / "run"), "--quiet", cwd=cwd)
        assert resumed.returncode == 0, resumed.stderr
        assert_same(cwd, whole)
        more = ("--num-frames", "1301", "--overwrite", "--run-dir", str(disk / "more"))
        small = generate(model, cwd, *more)
        assert small.returncode == 2 and "make room" in small.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def suppressing(action: str) -> str:
    return f"import contextlib\nwith contextlib.suppress(OSError): {action}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (f"layer:9:1:{RAISE}", "rank 1 failed: ArithmeticError: one and one is three"),
        (f"layer:9:1:{NO_MEMORY}", "rank 1 failed: "),
        (f"join:1:1:{HANG}", "failed: the 2 ranks did not meet within 5 s"),
        (f"layer:9:1:{HANG}", "rank 0 failed: rank 0: the exchange with another rank"),
    ],
)
def test_any_other_end_of_a_rank(
    fault: str, says: str, model: Path, whole: Path, tmp_path: Path
) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, "--timeout", "5", armed=(fault,))
    assert failed.returncode == 1
    assert says in last_line(failed)
    resumed = resume(cwd)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(cwd, whole)


@pytest.mark.slow
def test_torchrun_starts_it_again_where_it_was(model: Path, whole: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    torchrun = [program.PROGRAM[0], "-m", "torch.distributed.run", "--standalone"]
    finished = program.run(
        *("generate", "a b c", "--model", model, *SETTINGS, "--report", "r.json"),
        cwd=cwd,
        environment=environment(cwd, (f"step:5:1:{KILL}",))
        | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        program=[*torchrun, "--nproc-per-node=2", "--max-restarts=1", "-m", "video_infinity"],
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads((cwd / "r.json").read_text())["first_step"] == 4
    (cwd / "r.json").unlink()
    assert_same(cwd, whole)


@pytest.mark.slow
def test_a_removed_directory(model: Path, tmp_path: Path) -> None:
    cwd = tmp_path / "here"
    cwd.mkdir()
    failed = generate(model, cwd, armed=("step:2:0:import shutil; shutil.rmtree('v.run')",))
    assert failed.returncode == 1
    assert "the checkpoint of step 2 could not be written" in last_line(failed)


def refused(cwd: Path, change: Any) -> str:
    """What `resume` says, in one line, once something was changed."""
    change()
    finished = resume(cwd)
    assert finished.returncode == 2, finished
    (line,) = finished.stderr.splitlines()
    return line


@pytest.mark.slow
def test_what_has_changed_is_refused_by_name(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    cwd = tmp_path / "here"
    cwd.mkdir()
    assert generate(model, cwd, armed=(f"step:4:1:{KILL}",)).returncode == 1
    manifest = cwd / "v.run" / "manifest.json"
    text = manifest.read_text()

    def swap(old: str, new: str) -> None:
        assert old in text
        manifest.write_text(text.replace(old, new))

    assert "its checksum differs" in refused(cwd, lambda: swap('"seed": 0', '"seed": 1'))
    manifest.write_text(text)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    says = refused(cwd, lambda: weights.write_bytes(data))
    assert "model/unet/diffusion_pytorch_model.safetensors differs" in says
    assert "no manifest.json" in refused(cwd, manifest.unlink)
