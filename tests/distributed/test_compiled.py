"""Blocks that torch.compile has made give the same video; what travels stays out of the graphs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.distributed.harness import TOLERANCE, relative_difference
from tests.distributed.test_offload import latents_of
from tests.tiny import save_tiny_model
from tests.tiny_wan import save_tiny_wan
from video_infinity.adapters import load_model
from video_infinity.config import ModelSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]


@pytest.mark.parametrize(("save", "pixels"), [(save_tiny_model, 8), (save_tiny_wan, 64)])
def test_compiled_blocks_give_the_same_latents(save: object, pixels: int, tmp_path: Path) -> None:
    model = str(save(tmp_path / "model"))  # type: ignore[operator]
    found = []
    for compiled in (False, True):
        adapter = load_model(ModelSpec(model, device="cpu", compile_blocks=compiled))
        found.append(latents_of(adapter, pixels))
    assert not torch.equal(*found), "nothing was compiled"
    assert relative_difference(*found) < TOLERANCE
