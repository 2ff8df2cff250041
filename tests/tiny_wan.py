"""Small random-weight Wan models in diffusers' layout: transformer, causal autoencoder, UMT5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from tests.tiny import randomise

TEXT_CHANNELS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "two heads": {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 2,
        "ffn_dim": 32,
    },
    "three layers, patches of four": {
        "num_attention_heads": 3,
        "attention_head_dim": 16,
        "num_layers": 3,
        "ffn_dim": 24,
        "patch_size": (1, 4, 4),
    },
}
FIRST = next(iter(TRANSFORMERS))
SIZE = 64
"""Pixels of a picture: 8 by 8 latents."""


def tiny_transformer(name: str = FIRST, seed: int = 0) -> WanTransformer3DModel:
    """Its attention looks sharply, and over frames counts for much: a wrong position, a missing
    frame or another prompt shows in the first digit."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        in_channels=4,
        out_channels=4,
        text_dim=TEXT_CHANNELS,
        freq_dim=16,
        rope_max_seq_len=52,  # a row of 832 pixels, and fewer than the latent frames of long runs
        **TRANSFORMERS[name],
    )
    randomise(transformer, seed)
    for block in transformer.blocks:
        over_frames, to_text = block.attn1, block.attn2
        for part in (over_frames.norm_q, over_frames.norm_k, over_frames.to_out[0]):
            part.weight.data *= 2
        for part in (to_text.norm_q, to_text.norm_k):
            part.weight.data *= 2
    return transformer


def tiny_vae(**options: Any) -> AutoencoderKLWan:
    """Two residual blocks a level, as the real one has, so that one latent reaches 38 others."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 1.5, 0.5, 2.0],
        **options,
    )
    randomise(vae)
    return vae


def tiny_residual_vae() -> AutoencoderKLWan:
    """The layout of Wan 2.2 5B's: shortcuts around whole levels, a patch of pixels per place."""
    return tiny_vae(
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        decoder_base_dim=6,
        scale_factor_spatial=16,
    )


def tiny_t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


def tiny_umt5(vocabulary: int = 40) -> UMT5EncoderModel:
    """What it says of a few words is heard among the zeros up to 512."""
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=TEXT_CHANNELS,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
    )
    encoder = UMT5EncoderModel(config)
    randomise(encoder)
    encoder.encoder.final_layer_norm.weight.data *= 4
    return encoder


def flow_unipc(**options: Any) -> UniPCMultistepScheduler:
    """The scheduler that Wan's repositories come with."""
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return UniPCMultistepScheduler(**settings | options)


def flow_euler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


SCHEDULERS: dict[str, Callable[[], Any]] = {"UniPC": flow_unipc, "Euler": flow_euler}


def tiny_wan_pipe(
    transformer: str = FIRST, scheduler: Any = None, *, two_experts: bool = False
) -> WanPipeline:
    second = tiny_transformer(transformer, seed=1) if two_experts else None
    pipe = WanPipeline(
        tokenizer=tiny_t5_tokenizer(),
        text_encoder=tiny_umt5(),
        vae=tiny_vae(),
        scheduler=scheduler or flow_unipc(),
        transformer=tiny_transformer(transformer),
        transformer_2=second,
        boundary_ratio=0.875 if two_experts else None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_tiny_wan(directory: Path, **options: Any) -> Path:
    """A whole model in diffusers format; returns its directory."""
    tiny_wan_pipe(**options).save_pretrained(directory)
    return directory
