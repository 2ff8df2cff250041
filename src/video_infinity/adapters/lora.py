"""Low-rank updates, merged into a denoiser's weights when it is loaded.

`UNet3DConditionModel` has no LoRA loader of its own in diffusers.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from video_infinity.adapters.files import weight_files
from video_infinity.errors import ModelError

_DOWN = re.compile(
    r"^(?:unet\.|base_model\.model\.)*(.+?)\.(?:lora_A|lora\.down|lora_down)"
    r"(?:\.default)?\.weight$"
)


def merge_lora(denoiser: nn.Module, directory: Path) -> int:
    """Add every low-rank update in a directory to the weights it names: W += (alpha / r) B A.

    Names are read as peft (lora_A, lora_B) and diffusers (lora.down, lora.up) write them; alpha
    is r unless the file says otherwise. Returns how many weights were changed.
    Raises ModelError if the file has no update for this model, or one that does not fit.
    Source: Hu et al. (2021), equation 3.
    """
    modules = dict(denoiser.named_modules())
    merged = 0
    for file in weight_files(directory):
        tensors = load_file(file)
        for key in sorted(tensors):
            match = _DOWN.match(key)
            if match is None:
                continue
            module = modules.get(match[1])
            weight = getattr(module, "weight", None)
            up = tensors.get(_up_name(key))
            if up is None or not isinstance(weight, nn.Parameter):
                raise ModelError(f"{file}: {key} names no weight of this denoiser, or has no pair")
            alpha = _alpha(tensors, key, rank=tensors[key].shape[0])
            _add(weight, up, tensors[key], alpha, f"{file}: {key}")
            merged += 1
    if not merged:
        raise ModelError(f"--lora {directory} holds no low-rank update of a denoiser")
    return merged


def _up_name(key: str) -> str:
    for down, up in (("lora_A", "lora_B"), ("lora.down", "lora.up"), ("lora_down", "lora_up")):
        if f".{down}." in key:
            return key.replace(f".{down}.", f".{up}.")
    raise AssertionError(key)


def _alpha(tensors: dict[str, torch.Tensor], key: str, rank: int) -> float:
    stem = re.split(r"\.(?:lora_A|lora\.down|lora_down)\.", key)[0]
    alpha = tensors.get(f"{stem}.alpha")
    return (float(alpha) if alpha is not None else float(rank)) / rank


def _add(
    weight: nn.Parameter, up: torch.Tensor, down: torch.Tensor, scale: float, where: str
) -> None:
    delta = up.flatten(1).float() @ down.flatten(1).float() * scale
    if delta.numel() != weight.numel():
        raise ModelError(
            f"{where}: an update of {tuple(up.shape)} by {tuple(down.shape)} does not fit a "
            f"weight of {tuple(weight.shape)}"
        )
    with torch.no_grad():
        weight.add_(delta.view(weight.shape).to(weight))
