"""What lies in a run directory is whole, this run's and this version's, or it is not used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end import program
from tests.faults.injected import KILL
from tests.faults.runs import SETTINGS, assert_same, generate, last_line, resume, steps_saved
from tests.tiny import save_tiny_model
from video_infinity.sealed import read_sealed, write_sealed


def cut(checkpoint: Path) -> None:
    *_, file = sorted(checkpoint.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])


def flip(checkpoint: Path) -> None:
    *_, file = sorted(checkpoint.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def lose_a_part(checkpoint: Path) -> None:
    *_, file = sorted(checkpoint.glob("*.safetensors"))
    file.unlink()


def of_another_run(checkpoint: Path) -> None:
    marker = checkpoint / "marker.json"
    write_sealed(marker, read_sealed(marker) | {"run": "another"})


def of_another_version(checkpoint: Path) -> None:
    marker = checkpoint / "marker.json"
    write_sealed(marker, read_sealed(marker) | {"format": 2})


HARMS = (cut, flip, lose_a_part, of_another_run, of_another_version)


@pytest.mark.slow
def test_the_checkpoint_before_is_used(
    model: Path, whole: Path, here: Path, tmp_path: Path
) -> None:
    """One failed run, whose directory is harmed in each way, and gone on with each time."""
    assert generate(model, here, armed=(f"step:6:1:{KILL}",)).returncode == 1
    run_dir, kept = here / "v.run", tmp_path / "kept"
    assert steps_saved(run_dir) == [2, 4]
    shutil.copytree(run_dir, kept)
    for harm in HARMS:
        shutil.rmtree(here)
        shutil.copytree(kept, run_dir)
        harm(run_dir / "checkpoints" / "step-00004")
        resumed = resume(here)
        assert resumed.returncode == 0, resumed.stderr
        assert "warning: the checkpoint of step 4 is not used: " in resumed.stderr, harm
        assert_same(here, whole)


def refused(cwd: Path, change: Callable[[], object]) -> str:
    """What `resume` says, in one line, once something was changed."""
    change()
    finished = resume(cwd)
    assert finished.returncode == 2, finished
    (line,) = finished.stderr.splitlines()
    return line


@pytest.mark.slow
def test_what_has_changed_is_refused_by_name(tmp_path: Path, here: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    assert generate(model, here, armed=(f"step:4:1:{KILL}",)).returncode == 1
    manifest = here / "v.run" / "manifest.json"
    text, body = manifest.read_text(), read_sealed(manifest)

    def swap(old: str, new: str) -> None:
        assert old in text
        manifest.write_text(text.replace(old, new))

    assert "its checksum differs" in refused(here, lambda: swap('"seed": 0', '"seed": 1'))
    says = refused(here, lambda: write_sealed(manifest, body | {"format": 2}))
    assert "has format 2, and this version reads 1" in says
    manifest.write_text(text)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    says = refused(here, lambda: weights.write_bytes(data))
    assert "model/unet/diffusion_pytorch_model.safetensors differs" in says
    assert "no manifest.json" in refused(here, manifest.unlink)


@pytest.mark.slow
def test_another_request_is_refused_by_name(model: Path, here: Path) -> None:
    """Where torchrun starts its ranks again with other words than before."""
    assert generate(model, here, armed=(f"step:4:1:{KILL}",)).returncode == 1
    again = {"TORCHELASTIC_RESTART_COUNT": "1", "RANK": "0", "WORLD_SIZE": "1"}
    told = ("generate", "a b c", "--model", model, *SETTINGS, "--seed", "3")
    finished = program.run(*told, cwd=here, environment=again)
    assert finished.returncode == 2
    assert "--seed is 3, and the run in its directory began with 0" in last_line(finished)
