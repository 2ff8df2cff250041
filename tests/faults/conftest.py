"""What every test of a fault starts from: a model, an undisturbed run, an empty directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import UniPCMultistepScheduler

from tests.faults.runs import generate
from tests.tiny import save_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny", scheduler=UniPCMultistepScheduler()
    )


@pytest.fixture(scope="session")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing happened to, on two ranks."""
    cwd = tmp_path_factory.mktemp("whole")
    finished = generate(model, cwd)
    assert finished.returncode == 0, finished.stderr
    assert not (cwd / "v.run").exists(), "what a run that is done leaves is its files"
    return cwd


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty working directory."""
    directory = tmp_path / "here"
    directory.mkdir()
    return directory
