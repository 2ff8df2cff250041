"""VBench's own networks from a folder: small ones of random weights, in the format of transformers.

The loading and the preprocessing are the real ones; the networks' size is not, and is told.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
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


def test_resize_and_crop_are_torchvisions() -> None:
    picture = torch.rand(1, 3, 100, 60)
    assert shorter_side(picture, 30, "bilinear").shape == (1, 3, 50, 30)
    assert shorter_side(picture.mT, 30, "bicubic").shape == (1, 3, 30, 50)
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
