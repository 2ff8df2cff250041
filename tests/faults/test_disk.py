"""Disks that are full, read-only or gone: a clear error, and all that was saved stays."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end import program
from tests.end_to_end.test_command import read_pngs
from tests.faults.injected import KILL, NO_ROOM
from tests.faults.runs import (
    STEPS,
    assert_resumes,
    assert_same,
    generate,
    last_line,
    latents,
    resume,
    steps_saved,
    words,
)
from video_infinity.config import ModelDefaults
from video_infinity.output import open_sink
from video_infinity.rundir import RunDir

FPS = ModelDefaults().fps
DISK_BYTES = 2**23
HEADER_BYTES = 4096
"""Of a small file, which the plan leaves out: names, spans, checksums."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real one: a small file system in memory."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(directory)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs privileges")
    try:
        yield directory
    finally:
        # Lazily: a test may hold a file of it open for as long as it lives.
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def filling(disk: Path) -> str:
    """What takes all the room that a disk has left."""
    fill = f"open('{disk}/other', 'wb').write(bytes({DISK_BYTES}))"
    return f"import contextlib\nwith contextlib.suppress(OSError): {fill}"


def making_read_only(directory: Path) -> str:
    """What lays a read-only mount over a directory; a file mode would not hold root back."""
    commands = (
        f"mount --bind '{directory}' '{directory}'",
        f"mount -o remount,bind,ro '{directory}'",
    )
    return "\n".join(
        ["import subprocess", *(f'subprocess.run("{c}", shell=True, check=True)' for c in commands)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_the_disk_in_a_checkpoint(
    rank: int, model: Path, whole: Path, here: Path
) -> None:
    """Of one rank's own disk, as machines have."""
    failed = generate(model, here, armed=(f"save:2:{rank}:{NO_ROOM}",))
    assert failed.returncode == 1
    assert "No space left on device; earlier ones are as they were" in last_line(failed)
    assert steps_saved(here / "v.run") == [2]
    assert_resumes(here, whole)


@pytest.mark.slow
def test_a_full_disk_in_a_checkpoint(model: Path, whole: Path, here: Path, disk: Path) -> None:
    armed = (f"step:3:0:{filling(disk)}",)
    failed = generate(model, here, "--run-dir", str(disk / "run"), armed=armed)
    assert failed.returncode == 1, failed
    assert "the checkpoint of step 4 could not be written: No space left on device" in last_line(
        failed
    )
    assert steps_saved(disk / "run") == [2]
    (disk / "other").unlink()
    resumed = program.run("resume", str(disk / "run"), "--quiet", cwd=here)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(here, whole)


@pytest.mark.slow
def test_a_full_disk_while_pictures_are_kept(
    model: Path, whole: Path, here: Path, disk: Path
) -> None:
    armed = (f"decode:1:0:{filling(disk)}",)
    failed = generate(model, here, "--run-dir", str(disk / "run"), armed=armed)
    assert failed.returncode == 1, failed
    assert "finished pictures could not be kept" in last_line(failed)
    assert "No space left on device" in last_line(failed)
    assert steps_saved(disk / "run")[-1] == STEPS, "nothing is denoised again"
    (disk / "other").unlink()
    resumed = program.run("resume", str(disk / "run"), "--quiet", cwd=here)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(here, whole)


LARGER = ("--height", "32", "--width", "32")
"""A film of smaller ones fits into the page that its header has taken, however full the disk."""


@pytest.fixture(scope="module")
def whole_larger(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("whole larger")
    finished = generate(model, cwd, *LARGER)
    assert finished.returncode == 0, finished.stderr
    return cwd


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "name", "when"),
    [
        ("--output", "v", "decode:1"),
        ("--output", "v.mp4", "decode:1"),
        ("--output", "v.mp4", "finish:1"),
        ("--save-latents", "z.safetensors", "step:6"),
    ],
)
def test_a_full_disk_under_an_output(
    flag: str, name: str, when: str, model: Path, whole_larger: Path, here: Path, disk: Path
) -> None:
    more = (*LARGER, flag, str(disk / name), "--run-dir", "r")
    failed = generate(model, here, *more, armed=(f"{when}:0:{filling(disk)}",))
    assert failed.returncode == 1, failed
    assert f"{name} could not be written: No space left on device" in last_line(failed)
    assert [path.name for path in disk.iterdir()] == ["other"], "whole or absent"
    assert steps_saved(here / "r")[-1] == STEPS, "nothing is denoised again"
    (disk / "other").unlink()
    resumed = program.run("resume", "r", "--quiet", cwd=here)
    assert resumed.returncode == 0, resumed.stderr
    (made,) = disk.iterdir()
    if made.suffix == ".mp4":
        assert made.read_bytes() == as_mp4(whole_larger / "v", here / "expected.mp4")
    elif made.suffix:
        assert torch.equal(load_file(made)["latents"], latents(whole_larger))
    else:
        assert np.array_equal(read_pngs(made), read_pngs(whole_larger / "v"))


def as_mp4(frames: Path, path: Path) -> bytes:
    """The file that the same frames make: the encoder gives the same bytes for them."""
    with open_sink(path, fps=FPS, width=32, height=32, overwrite=False) as sink:
        sink.write(read_pngs(frames))
    return path.read_bytes()


@pytest.mark.slow
def test_plan_says_what_room_a_run_takes(model: Path, here: Path) -> None:
    """At its end, where it takes most."""
    told = words(model)
    plan = program.run("plan", *told[1:], "--log-json", cwd=here)
    assert plan.returncode == 0, plan.stderr
    predicted = json.loads(plan.stdout)["run_dir_bytes"]
    assert "checkpoints" in program.run("plan", *told[1:], cwd=here).stdout
    assert generate(model, here, armed=(f"finish:1:0:{KILL}",)).returncode == 1
    for name, directory in {"checkpoints": "checkpoints", "pictures": "spool"}.items():
        files = [path for path in (here / "v.run" / directory).rglob("*") if path.is_file()]
        taken = sum(path.stat().st_size for path in files)
        assert 0 < taken <= predicted[name] + HEADER_BYTES * len(files)


@pytest.mark.slow
def test_too_little_room_from_the_start(model: Path, here: Path, disk: Path) -> None:
    refused = generate(model, here, "--num-frames", "1301", "--run-dir", str(disk / "run"))
    assert refused.returncode == 2 and "make room" in last_line(refused)
    assert not list(here.iterdir()) and not list(disk.iterdir())


@pytest.mark.slow
def test_a_directory_that_becomes_read_only(
    model: Path, whole: Path, here: Path, disk: Path
) -> None:
    run_dir = disk / "run"
    armed = (f"step:3:0:{making_read_only(run_dir)}",)
    failed = generate(model, here, "--run-dir", str(run_dir), armed=armed)
    try:
        assert failed.returncode == 1, failed
        says = "the checkpoint of step 4 could not be written: Read-only file system"
        assert says in last_line(failed)
        looked = program.run("status", str(run_dir), cwd=here)
        assert looked.returncode == 0 and "checkpoints after steps: 2" in looked.stdout
        for command in ("resume", "cancel"):
            refused = program.run(command, str(run_dir), cwd=here)
            assert refused.returncode == 2, refused
            (line,) = refused.stderr.splitlines()
            assert str(run_dir) in line
        anew = generate(model, here, "--run-dir", str(run_dir), "--overwrite")
        assert anew.returncode == 2 and "Read-only file system" in last_line(anew)
    finally:
        subprocess.run(["umount", str(run_dir)], check=True)
    assert steps_saved(run_dir) == [2]
    resumed = program.run("resume", str(run_dir), "--quiet", cwd=here)
    assert resumed.returncode == 0, resumed.stderr
    assert_same(here, whole)


def test_whether_a_run_goes_on_is_seen_where_nothing_can_be_written(disk: Path) -> None:
    """By another user, say, or on another machine that mounts the directory."""
    run_dir = RunDir(disk / "run")
    run_dir.create({}, overwrite=False)
    exec(making_read_only(run_dir.path))
    try:
        with pytest.raises(OSError, match="Read-only file system"):
            (run_dir.path / "stop").touch()
        assert RunDir(run_dir.path).is_led()
    finally:
        subprocess.run(["umount", str(run_dir.path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("step:2", "the checkpoint of step 2 could not be written"),
        ("picture:1", "finished pictures could not be kept"),
    ],
)
def test_a_directory_that_somebody_removes(when: str, says: str, model: Path, here: Path) -> None:
    failed = generate(model, here, armed=(f"{when}:0:import shutil; shutil.rmtree('v.run')",))
    assert failed.returncode == 1
    assert says in last_line(failed) and "No such file or directory" in last_line(failed)
    assert not (here / "v").exists()
    gone = resume(here)
    assert gone.returncode == 2 and "no run directory" in last_line(gone)
