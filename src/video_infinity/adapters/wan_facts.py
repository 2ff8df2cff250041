"""What is known of a Wan model before its weights are read. Configs and file headers alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from video_infinity.adapters.base import ModelFacts
from video_infinity.adapters.facts import check_parts, check_text, from_configs, with_extra
from video_infinity.adapters.files import read_json
from video_infinity.adapters.registry import ModelFiles
from video_infinity.config import ModelDefaults, ModelSpec
from video_infinity.errors import ModelError

VAE_CLASS = "AutoencoderKLWan"
DENOISER_CLASS = "WanTransformer3DModel"
SECOND_EXPERT = "transformer_2"

TRAINED_FRAMES = 21
"""Latent frames of the 81-frame videos that Wan was trained on."""

DEFAULTS = ModelDefaults(
    num_frames=129,
    num_inference_steps=50,
    guidance_scale=5.0,
    fps=16.0,
    height=480,
    width=832,
    local_frames=8,
    global_frames=4,
    trained_frames=TRAINED_FRAMES,
)
"""2 h + 1 + |G| is the trained length; the rest is what diffusers' pipeline takes."""

DECODE_FRAMES = 4
"""Latent frames of a chunk. At least three, so that a chunk's tail fills the next one's halo."""


def inspect(files: ModelFiles, spec: ModelSpec) -> ModelFacts:
    """The facts of this family; see `registry.inspect_model`."""
    index = read_json(files.base / "model_index.json")
    boundary_ratio = index.get("boundary_ratio")
    if boundary_ratio is None and (index.get(SECOND_EXPERT) or [None])[0] is not None:
        raise ModelError(
            f"{files.base} lists {SECOND_EXPERT} but no boundary_ratio: nothing says where the "
            "second expert takes over; fetch or save it again"
        )
    experts = [files.denoiser]
    if boundary_ratio is not None:
        experts.append(_second_expert(files, spec))
    check_parts(files, experts)
    if files.lora is not None and find_spec("peft") is None:
        raise ModelError(
            f"--lora {spec.lora}: diffusers loads updates of this model with peft, which is not "
            "installed; pip install peft"
        )
    if spec.fps_condition is not None:
        raise ModelError(
            f"--fps-condition {spec.fps_condition}: this denoiser takes no frame rate; drop the "
            "flag (--fps sets the playback)"
        )
    vae = read_json(files.base / "vae" / "config.json")
    if vae.get("_class_name") != VAE_CLASS:
        raise ModelError(
            f"{files.base / 'vae'} holds a {vae.get('_class_name')}; this denoiser needs an "
            f"{VAE_CLASS}"
        )
    denoiser = read_json(files.denoiser / "config.json")
    check_text(files, denoiser.get("text_dim"), "d_model")
    scheduler = read_json(files.base / "scheduler" / "scheduler_config.json")
    return from_configs(
        files,
        lambda extra: facts_of(files.name, denoiser, vae, extra, boundary_of(index, scheduler)),
    )


def boundary_of(index: dict[str, Any], scheduler: dict[str, Any]) -> float | None:
    """The training timestep where a second expert takes over, from two configs."""
    ratio = index.get("boundary_ratio")
    return None if ratio is None else float(ratio) * scheduler.get("num_train_timesteps", 1000)


def _second_expert(files: ModelFiles, spec: ModelSpec) -> Path:
    directory = files.base / SECOND_EXPERT
    if spec.unet is not None:
        raise ModelError(
            f"--unet {spec.unet}: {files.name} has two experts, and the flag names one; drop it"
        )
    if not directory.is_dir():
        raise ModelError(
            f"{files.base} has a boundary_ratio but no {SECOND_EXPERT}: the second expert, for "
            "low noise, is missing; fetch the whole model"
        )
    declared = read_json(directory / "config.json").get("_class_name")
    if declared != DENOISER_CLASS:
        raise ModelError(f"{directory} holds a {declared} where a {DENOISER_CLASS} is wanted")
    return directory


def facts_of(
    name: str,
    denoiser_config: dict[str, Any],
    vae_config: dict[str, Any],
    extra: dict[str, Any],
    expert_boundary: float | None,
) -> ModelFacts:
    """The facts that follow from the configs of a denoiser and its autoencoder.

    extra  of video_infinity.json, as for the other family
    Raises ModelError for what this engine does not drive: patches over time, images as input.
    """
    patch_t, patch_h, patch_w = denoiser_config["patch_size"]
    channels = denoiser_config["in_channels"]
    if patch_t != 1 or patch_h != patch_w:
        raise ModelError(f"{name} has patches of {denoiser_config['patch_size']}, not [1, n, n]")
    if denoiser_config.get("image_dim") is not None or channels != vae_config["z_dim"]:
        raise ModelError(
            f"{name} starts from an image ({channels} input channels, {vae_config['z_dim']} of "
            "latents); name a text-to-video model"
        )
    ratio = vae_config.get("scale_factor_spatial", 8)
    return ModelFacts(
        family="wan",
        name=name,
        pixels_per_latent=ratio,
        size_multiple=ratio * patch_h,
        latent_channels=channels,
        defaults=with_extra(DEFAULTS, extra),
        frames_per_latent=vae_config.get("scale_factor_temporal", 4),
        decode_frames=DECODE_FRAMES,
        expert_boundary=expert_boundary,
        frame_timesteps=expert_boundary is None,  # two experts share no pass
        knows_frames=bool(extra.get("knows_frames", False)),
        fixed_size=bool(extra.get("fixed_size", False)),
        vocabulary=tuple(extra.get("vocabulary", ())),
    )
