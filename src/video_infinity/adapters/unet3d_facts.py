"""What is known of a model of the `UNet3DConditionModel` family before its weights are read.

Configs and file headers alone: diffusers, which takes seconds to import, is not needed.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from video_infinity.adapters.base import ModelFacts
from video_infinity.adapters.files import check_safetensors, read_json, weight_files
from video_infinity.adapters.registry import ModelFiles, with_preset_defaults
from video_infinity.config import ModelDefaults, ModelSpec
from video_infinity.errors import ModelError

FPS_PREFIX = "fps_embedding."
_EXTRA_FACTS = "video_infinity.json"


def inspect(files: ModelFiles, spec: ModelSpec) -> ModelFacts:
    """The facts of this family; see `registry.inspect_model`."""
    vae, text_encoder = files.base / "vae", files.base / "text_encoder"
    for part in (files.denoiser, vae, text_encoder, *([files.lora] if files.lora else [])):
        weight_files(part)
    for config in (text_encoder / "config.json", files.base / "scheduler/scheduler_config.json"):
        read_json(config)
    if not (files.base / "tokenizer").is_dir():
        raise ModelError(f"{files.base} has no tokenizer: it is not a model in diffusers format")
    _check_fps_condition(files, spec)
    try:
        facts = facts_of(
            files.name,
            read_json(files.denoiser / "config.json"),
            read_json(vae / "config.json"),
            _extra_facts(files.base),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"a config of {files.base} or {files.denoiser} lacks or spoils an entry ({reason}); "
            "fetch or save it again"
        ) from error
    return with_preset_defaults(facts, files.preset)


def facts_of(
    name: str, unet_config: dict[str, Any], vae_config: dict[str, Any], extra: dict[str, Any]
) -> ModelFacts:
    """The facts that follow from the configs of a denoiser and its autoencoder.

    extra  of video_infinity.json: fields of ModelDefaults, `fixed_size` and `vocabulary`
    """
    ratio = 2 ** (len(vae_config["block_out_channels"]) - 1)
    sample_size = unet_config.get("sample_size") or 32
    rows, columns = (sample_size,) * 2 if isinstance(sample_size, int) else sample_size
    defaults = ModelDefaults(height=rows * ratio, width=columns * ratio)
    known = {f.name for f in fields(ModelDefaults)}
    return ModelFacts(
        family="unet3d",
        name=name,
        pixels_per_latent=ratio,
        size_multiple=ratio,
        latent_channels=unet_config["in_channels"],
        defaults=replace(defaults, **{k: v for k, v in extra.items() if k in known}),
        fixed_size=bool(extra.get("fixed_size", False)),
        vocabulary=tuple(extra.get("vocabulary", ())),
    )


def _extra_facts(base: Path) -> dict[str, Any]:
    path = base / _EXTRA_FACTS
    return read_json(path) if path.exists() else {}


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
