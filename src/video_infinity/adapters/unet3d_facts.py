"""What is known of a model of the `UNet3DConditionModel` family before its weights are read.

Configs and file headers alone: diffusers, which takes seconds to import, is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from video_infinity.adapters.base import ModelFacts
from video_infinity.adapters.facts import check_parts, check_text, from_configs, with_extra
from video_infinity.adapters.files import check_safetensors, read_json, weight_files
from video_infinity.adapters.registry import ModelFiles
from video_infinity.checks import shown
from video_infinity.config import ModelDefaults, ModelSpec
from video_infinity.errors import ModelError

FPS_PREFIX = "fps_embedding."


def inspect(files: ModelFiles, spec: ModelSpec) -> ModelFacts:
    """The facts of this family; see `registry.inspect_model`."""
    check_parts(files, [files.denoiser])
    _check_fps_condition(files, spec)
    denoiser = read_json(files.denoiser / "config.json")
    check_text(files, denoiser.get("cross_attention_dim"), "hidden_size")
    vae = read_json(files.base / "vae" / "config.json")
    return from_configs(files, lambda extra: facts_of(files.name, denoiser, vae, extra))


def facts_of(
    name: str, unet_config: dict[str, Any], vae_config: dict[str, Any], extra: dict[str, Any]
) -> ModelFacts:
    """The facts that follow from the configs of a denoiser and its autoencoder.

    extra  of video_infinity.json: fields of ModelDefaults, and some of ModelFacts
    Raises ModelError for a denoiser of other latents than the autoencoder's.
    """
    channels = unet_config["in_channels"]
    decoded = vae_config.get("latent_channels", channels)
    if decoded != channels:
        raise ModelError(
            f"the denoiser of {name} makes latents of {shown(channels)} channels and its "
            f"autoencoder reads {shown(decoded)}: they are of different models; fetch the whole "
            "model again, or name a --unet that goes with it"
        )
    ratio = 2 ** (len(vae_config["block_out_channels"]) - 1)
    sample_size = unet_config.get("sample_size") or 32
    rows, columns = (sample_size,) * 2 if isinstance(sample_size, int) else sample_size
    return ModelFacts(
        family="unet3d",
        name=name,
        pixels_per_latent=ratio,
        size_multiple=ratio,
        latent_channels=channels,
        frame_timesteps=True,
        knows_frames=bool(extra.get("knows_frames", False)),
        defaults=with_extra(ModelDefaults(height=rows * ratio, width=columns * ratio), extra),
        fixed_size=bool(extra.get("fixed_size", False)),
        vocabulary=tuple(extra.get("vocabulary", ())),
    )


def has_fps(denoiser: Path) -> bool:
    """Whether a denoiser's weights take the frame rate, as VideoCrafter2's do."""
    return any(
        key.startswith(FPS_PREFIX) for f in weight_files(denoiser) for key in check_safetensors(f)
    )


def _check_fps_condition(files: ModelFiles, spec: ModelSpec) -> None:
    if spec.fps_condition is not None and not has_fps(files.denoiser):
        raise ModelError(
            f"--fps-condition {spec.fps_condition}: this denoiser takes no frame rate; drop the "
            "flag (--fps sets the playback)"
        )
