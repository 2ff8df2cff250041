"""VBench's own networks, from a local folder of weights, where a library on PyPI has their code.

The folder holds any of these, each in the format of transformers (`config.json`, safetensors):

    dino-vitb16/                         DINO ViT-B/16            subject consistency
    clip-vit-base-patch32/               CLIP ViT-B/32            background consistency
    clip-vit-large-patch14/              CLIP ViT-L/14            aesthetic quality, together with
    sa_0_4_vit_l_14_linear.safetensors   LAION's linear head      (or .pth)

What is not there is measured by the light backend. Three networks have no code in any library that
installs beside ours: RAFT, AMT-S, and MUSIQ. They run in VBench's own environment
(`environment.py`).

B frames, D features, H height, W width.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.features import IMAGENET, SIDE, normalised, stacked
from video_infinity_evaluation.footage import Frame

DINO, CLIP_B, CLIP_L = "dino-vitb16", "clip-vit-base-patch32", "clip-vit-large-patch14"
HEAD = ("sa_0_4_vit_l_14_linear.safetensors", "sa_0_4_vit_l_14_linear.pth")
CLIP_LEVELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
NO_LIBRARY = {
    "dynamic_degree": "RAFT",
    "motion_smoothness": "AMT-S",
    "imaging_quality": "MUSIQ",
}
"""Networks without code in a PyPI library that works beside this package's other dependencies."""


@dataclass(frozen=True)
class Official:
    """What a folder holds; None for what it lacks."""

    subject: DinoFeatures | None = None
    scene: ClipFeatures | None = None
    aesthetic: Aesthetic | None = None


def load_official(folder: Path) -> Official:
    """The networks of a folder.

    Raises EvaluationError if the folder holds none of them, or one that cannot be read.
    """
    if not folder.is_dir():
        raise EvaluationError(f"--weights {folder} is no directory; name one that holds {DINO}")
    head = next((folder / name for name in HEAD if (folder / name).is_file()), None)
    has_large = (folder / CLIP_L).is_dir()
    found = Official(
        DinoFeatures(folder / DINO) if (folder / DINO).is_dir() else None,
        ClipFeatures(folder / CLIP_B) if (folder / CLIP_B).is_dir() else None,
        Aesthetic(folder / CLIP_L, head) if has_large and head is not None else None,
    )
    if found == Official():
        raise EvaluationError(
            f"--weights {folder} holds none of {DINO}, {CLIP_B}, or {CLIP_L} with {HEAD[0]}; "
            "put one of them there, in the format of transformers"
        )
    return found


def shorter_side(levels_B3HW: Tensor, side: int, mode: str) -> Tensor:
    """Resize so that the shorter side is `side`, as torchvision's Resize(side, antialias=False)."""
    height, width = levels_B3HW.shape[-2:]
    short, long = sorted((height, width))
    longer = int(side * long / short)
    size = (side, longer) if height <= width else (longer, side)
    return functional.interpolate(levels_B3HW, size, mode=mode, align_corners=False)


def centre(levels_B3HW: Tensor, side: int) -> Tensor:
    """The square in the middle, as torchvision's CenterCrop."""
    height, width = levels_B3HW.shape[-2:]
    top, left = round((height - side) / 2), round((width - side) / 2)
    return levels_B3HW[..., top : top + side, left : left + side]


def _load(path: Path, load: Callable[..., Any], **options: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        network, told = load(
            str(path),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (
        *(OSError, ValueError, KeyError, TypeError, RuntimeError),
        *(SafetensorError, StrictDataclassError),
    ) as error:
        cause = " ".join(str(error).split())[:160]
        raise EvaluationError(f"--weights: {path} cannot be loaded: {cause}") from error
    if missing := sorted(told["missing_keys"]):
        raise EvaluationError(
            f"--weights: {path} lacks {len(missing)} tensors of its network, such as {missing[0]}; "
            "is it in the format of transformers?"
        )
    return network.eval()


def _is(config: Any, hidden: int, layers: int, patch: int) -> bool:
    sizes = (config.hidden_size, config.num_hidden_layers, config.patch_size)
    return sizes == (hidden, layers, patch)


def _label(right: bool, name: str, path: Path) -> str:
    return name if right else f"{path.name}, not of the size of {name}: not comparable"


class DinoFeatures:
    """The class token of DINO's ViT; the shorter side at 224, nothing cut off.

    Source: VBench 0.1.5, `subject_consistency` and `utils.dino_transform`.
    """

    def __init__(self, path: Path) -> None:
        from transformers import ViTModel

        self._network = _load(path, ViTModel.from_pretrained, add_pooling_layer=False)
        self.label = _label(_is(self._network.config, 768, 12, 16), "DINO ViT-B/16", path)

    @torch.no_grad()
    def __call__(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        """[B, D]"""
        levels = shorter_side(stacked(frames), SIDE, "bilinear")
        output = self._network(normalised(levels, IMAGENET), interpolate_pos_encoding=True)
        return np.asarray(output.last_hidden_state[:, 0].numpy(), np.float32)


class ClipFeatures:
    """CLIP's embedding of the middle square.

    Source: VBench 0.1.5, `background_consistency` and `utils.clip_transform`.
    """

    def __init__(self, path: Path, name: str = "CLIP ViT-B/32") -> None:
        from transformers import CLIPVisionModelWithProjection

        self._network = _load(path, CLIPVisionModelWithProjection.from_pretrained)
        sizes = {"CLIP ViT-B/32": (768, 12, 32), "CLIP ViT-L/14": (1024, 24, 14)}[name]
        self.label = _label(_is(self._network.config, *sizes), name, path)
        self._side = int(self._network.config.image_size)
        self.width = int(self._network.config.projection_dim)

    @torch.no_grad()
    def __call__(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        """[B, D]"""
        levels = shorter_side(stacked(frames), self._side, "bicubic")
        output = self._network(normalised(centre(levels, self._side), CLIP_LEVELS))
        return np.asarray(output.image_embeds.numpy(), np.float32)


class Aesthetic:
    """LAION's linear head on the embedding of CLIP ViT-L/14, divided by 10.

    Source: VBench 0.1.5, `aesthetic_quality.laion_aesthetic`.
    """

    def __init__(self, path: Path, head: Path) -> None:
        self._features = ClipFeatures(path, "CLIP ViT-L/14")
        self.label = f"LAION's head on {self._features.label}"
        try:
            if head.suffix == ".pth":
                state = torch.load(head, map_location="cpu", weights_only=True)
            else:
                state = load_file(head)
            self._head = nn.Linear(state["weight"].shape[1], 1)
            self._head.load_state_dict(state)
            if self._head.in_features != self._features.width:
                raise ValueError(
                    f"it takes {self._head.in_features} features of the {self._features.width}"
                )
        except (
            *(OSError, ValueError, KeyError, RuntimeError, AttributeError, EOFError),
            *(SafetensorError, pickle.UnpicklingError),
        ) as error:
            raise EvaluationError(
                f"--weights: {head} is no linear layer that can be loaded: "
                f"{' '.join(str(error).split())[:160]}"
            ) from error

    @torch.no_grad()
    def __call__(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        """A score for each frame, [B]."""
        unit_BD = functional.normalize(torch.from_numpy(self._features(frames)), dim=-1)
        return np.asarray(self._head(unit_BD)[:, 0].numpy() / 10, np.float32)
