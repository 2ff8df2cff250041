"""What every test of a fault starts from: a plain installation, a model, an undisturbed run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from diffusers import UniPCMultistepScheduler

from tests.faults.injected import PLAIN
from tests.faults.runs import generate
from tests.tiny import save_tiny_model


@pytest.fixture(scope="package", autouse=True)
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that tests start find what `pip install video-infinity` brings, and no extra."""
    site = tmp_path_factory.mktemp("plain")
    (site / "sitecustomize.py").write_text(PLAIN)
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        yield


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny", scheduler=UniPCMultistepScheduler()
    )


@pytest.fixture(scope="package")
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
