"""Small random-weight models in the layouts that users have, saved as users save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.models.embeddings import TimestepEmbedding
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TEXT_CHANNELS = 16

UNETS: dict[str, dict[str, Any]] = {
    "cross-attention everywhere": {
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        "up_block_types": ("CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "sample_size": 4,
        "in_channels": 4,
        "out_channels": 4,
    },
    "plain last level, two layers": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
    },
    "one level, wide heads": {
        "block_out_channels": (24,),
        "down_block_types": ("CrossAttnDownBlock3D",),
        "up_block_types": ("CrossAttnUpBlock3D",),
        "layers_per_block": 1,
        "attention_head_dim": 3,
        "norm_num_groups": 3,
        "sample_size": (4, 8),
        "in_channels": 4,
        "out_channels": 4,
    },
}
FIRST = next(iter(UNETS))


def randomise(module: torch.nn.Module, seed: int = 0, gain: float = 0.5) -> torch.nn.Module:
    """Give every parameter a random value, those that start at zero as well, so that no layer
    is an identity and a missing exchange shows.

    gain  of a layer on unit inputs; at 1 a denoiser amplifies rounding a thousandfold
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator)
        scale = gain * fan_in**-0.5 if parameter.ndim > 1 else 0.2
        offset = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.data = offset + noise * scale
    return module.eval()


def tiny_unet(name: str = FIRST, gain: float = 0.5) -> UNet3DConditionModel:
    torch.manual_seed(0)
    unet = UNet3DConditionModel(cross_attention_dim=TEXT_CHANNELS, **UNETS[name])
    return randomise(unet, gain=gain)


def tiny_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer with single letters only."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12)


def tiny_pipe(unet: str = FIRST, scheduler: Any = None, gain: float = 0.5) -> TextToVideoSDPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.5,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=54,
            hidden_size=TEXT_CHANNELS,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=52,
            eos_token_id=53,
        )
    )
    return TextToVideoSDPipeline(
        vae=randomise(vae, gain=gain),
        text_encoder=randomise(text_encoder, gain=gain),
        tokenizer=tiny_tokenizer(),
        unet=tiny_unet(unet, gain),
        scheduler=scheduler or DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
    )


def save_tiny_model(directory: Path, unet: str = FIRST, scheduler: Any = None) -> Path:
    """A whole model in diffusers format; returns its directory."""
    tiny_pipe(unet, scheduler).save_pretrained(directory)
    return directory


def save_videocrafter2_denoiser(directory: Path) -> Path:
    """A denoiser alone, at the root of its repository, with VideoCrafter2's fps embedding."""
    unet = tiny_unet()
    unet.save_pretrained(directory)
    file = directory / "diffusion_pytorch_model.safetensors"
    channels = unet.config.block_out_channels[0]
    fps = randomise(TimestepEmbedding(channels, 4 * channels), seed=1)
    extra = {f"fps_embedding.{k}": v.contiguous() for k, v in fps.state_dict().items()}
    save_file(load_file(file) | extra, file, metadata={"format": "pt"})
    return directory


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path
