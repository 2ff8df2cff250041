"""VBench's own networks from a folder: small ones of random weights, in the format of transformers.

The loading and the preprocessing are the real ones; the networks' size is not, and is told.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTModel,
)

from tests.evaluation.conftest import real_frames
from video_infinity_evaluation import EvaluationError, load_backends, score
from video_infinity_evaluation.official import (
    CLIP_B,
    CLIP_L,
    DINO,
    HEAD,
    centre,
    load_official,
    shorter_side,
)

Kernel = Callable[[torch.Tensor], torch.Tensor]
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `load_official` knows."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights")
    ViTModel(ViTConfig(**SMALL), add_pooling_layer=False).save_pretrained(path / DINO)
    for name in (CLIP_B, CLIP_L):
        config = CLIPVisionConfig(**SMALL, projection_dim=8, image_size=64, patch_size=16)
        CLIPVisionModelWithProjection(config).save_pretrained(path / name)
    save_file({"weight": torch.ones(1, 8), "bias": torch.full((1,), 5.0)}, path / HEAD[0])
    return path


@pytest.fixture(scope="module")
def video() -> Any:
    return real_frames("carphone_pristine", 6, 88)


def test_all_of_a_folder_is_used_and_a_wrong_size_is_told(folder: Path, video: Any) -> None:
    scores = score(video, backends=load_backends(folder))
    labels = {m.name: m.by for m in scores.measures}
    assert (
        labels["subject_consistency"] == f"{DINO}, not of the size of DINO ViT-B/16: not comparable"
    )
    assert "CLIP ViT-B/32" in labels["background_consistency"]
    assert "LAION's head" in labels["aesthetic_quality"]
    aesthetic = scores["aesthetic_quality"]
    assert aesthetic is not None and 0.5 - 0.1 * 8**0.5 <= aesthetic <= 0.5 + 0.1 * 8**0.5
    (imaging,) = (m for m in scores.measures if m.name == "imaging_quality")
    assert imaging.value is None and "MUSIQ" in imaging.note


def test_features_are_those_of_the_network_alone(folder: Path, video: Any) -> None:
    """By hand: the class token of the picture at 224 along its shorter side."""
    official = load_official(folder)
    assert official.subject is not None
    network = ViTModel.from_pretrained(folder / DINO, add_pooling_layer=False).eval()
    levels = torch.from_numpy(video[:1]).permute(0, 3, 1, 2).float()
    assert levels.shape[-2:] == (72, 88)
    resized = torch.nn.functional.interpolate(levels, (224, 273), mode="bilinear")
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        output = network((resized / 255 - mean) / deviation, interpolate_pos_encoding=True)
    expected = output.last_hidden_state[0, 0].numpy()
    np.testing.assert_allclose(official.subject(video[:1])[0], expected, atol=1e-5)


def tent(distance: torch.Tensor) -> torch.Tensor:
    return (1 - distance).clamp(min=0)


def keys(distance: torch.Tensor) -> torch.Tensor:
    """Cubic convolution with a = -0.75, as torch and OpenCV have it. Source: Keys (1981)."""
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def sampling(size: int, wanted: int, kernel: Kernel) -> torch.Tensor:
    """Weights [wanted, size] of pixels read at the centres of larger ones, nothing averaged."""
    place = (torch.arange(wanted) + 0.5) * size / wanted - 0.5
    return kernel((place[:, None] - torch.arange(size)).abs())


@pytest.mark.parametrize(("mode", "kernel"), [("bilinear", tent), ("bicubic", keys)])
def test_a_smaller_picture_is_read_at_points_without_antialias(mode: str, kernel: Kernel) -> None:
    """As torchvision's Resize(25, antialias=False), whose longer side is int(25 * 100 / 60)."""
    picture = torch.rand(1, 3, 100, 60, generator=torch.Generator().manual_seed(0))
    expected = sampling(100, 41, kernel) @ picture @ sampling(60, 25, kernel).mT
    inner = (..., slice(1, -1), slice(1, -1))  # further out the edge goes on
    for found, wanted in (
        (shorter_side(picture, 25, mode), expected),
        (shorter_side(picture.mT, 25, mode), expected.mT),
    ):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found[inner], wanted[inner], rtol=0, atol=1e-5)
    smooth = functional.interpolate(picture, (41, 25), mode=mode, antialias=True)
    assert (smooth - expected)[inner].abs().mean() > 0.1


def test_the_crop_is_the_middle() -> None:
    picture = torch.rand(1, 3, 100, 60)
    assert torch.equal(centre(picture, 60), picture[:, :, 20:80])


def test_what_a_folder_lacks_is_light(folder: Path, video: Any, tmp_path: Path) -> None:
    (tmp_path / DINO).symlink_to(folder / DINO)
    scores = score(video, backends=load_backends(tmp_path))
    labels = {m.name: m.by for m in scores.measures}
    assert labels["subject_consistency"].startswith(DINO)
    assert labels["background_consistency"] == "EfficientNet-Lite0 half-way, not comparable"
    assert scores["aesthetic_quality"] is None


@pytest.mark.parametrize(
    "spoil", ["none", "empty", "no weights", "pickle", "head", "width", "lacks", "config"]
)
def test_a_bad_folder_is_told_in_one_line(folder: Path, tmp_path: Path, spoil: str) -> None:
    if spoil == "none":
        tmp_path = tmp_path / "nowhere"
    elif spoil == "no weights":
        (tmp_path / DINO).mkdir()
        (tmp_path / DINO / "config.json").write_bytes((folder / DINO / "config.json").read_bytes())
    elif spoil == "pickle":
        (tmp_path / DINO).mkdir()
        (tmp_path / DINO / "config.json").write_bytes((folder / DINO / "config.json").read_bytes())
        torch.save({}, tmp_path / DINO / "pytorch_model.bin")
    elif spoil == "head":
        (tmp_path / CLIP_L).symlink_to(folder / CLIP_L)
        (tmp_path / HEAD[1]).write_bytes(b"no tensors at all")
    elif spoil == "width":
        (tmp_path / CLIP_L).symlink_to(folder / CLIP_L)
        save_file({"weight": torch.ones(1, 9), "bias": torch.ones(1)}, tmp_path / HEAD[0])
    elif spoil == "lacks":
        shutil.copytree(folder / DINO, tmp_path / DINO)
        weights = load_file(tmp_path / DINO / "model.safetensors")
        weights = {f"backbone.{name}": tensor for name, tensor in weights.items()}
        save_file(weights, tmp_path / DINO / "model.safetensors", {"format": "pt"})
    elif spoil == "config":
        shutil.copytree(folder / DINO, tmp_path / DINO)
        (tmp_path / DINO / "config.json").write_text('{"model_type": "vit", "hidden_size": "x"}')
    with pytest.raises(EvaluationError, match=r"^--weights") as refused:
        load_official(tmp_path)
    assert "\n" not in str(refused.value)
