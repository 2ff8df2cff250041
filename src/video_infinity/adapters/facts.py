"""What every family does to learn a model's facts from its files. No diffusers here: it is slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from video_infinity.adapters.base import ModelFacts
from video_infinity.adapters.files import read_json, weight_files
from video_infinity.adapters.registry import ModelFiles
from video_infinity.checks import shown
from video_infinity.config import ModelDefaults
from video_infinity.errors import ModelError

_EXTRA_FACTS = "video_infinity.json"


def check_parts(files: ModelFiles, denoisers: Sequence[Path]) -> None:
    """Raise ModelError unless every part of a model is there, whole, with its config."""
    vae, text_encoder = files.base / "vae", files.base / "text_encoder"
    for part in (*denoisers, vae, text_encoder, *([files.lora] if files.lora else [])):
        weight_files(part)
    for config in (text_encoder / "config.json", files.base / "scheduler/scheduler_config.json"):
        read_json(config)
    if not (files.base / "tokenizer").is_dir():
        raise ModelError(f"{files.base} has no tokenizer: it is not a model in diffusers format")


def check_text(files: ModelFiles, wanted: object, key: str) -> None:
    """Raise ModelError if what the text encoder writes is not what the denoiser reads.

    wanted  channels that the denoiser's config names
    key     of the text encoder's config
    Configs may leave out what their library takes by itself: then loading has to tell.
    """
    text_encoder = files.base / "text_encoder"
    written = read_json(text_encoder / "config.json").get(key)
    if None not in (written, wanted) and written != wanted:
        raise ModelError(
            f"{text_encoder} writes {shown(written)} channels and {files.denoiser} reads "
            f"{shown(wanted)}: they are of different models; fetch the whole model again, or "
            "name a --unet that goes with it"
        )


def from_configs(files: ModelFiles, facts: Callable[[dict[str, Any]], ModelFacts]) -> ModelFacts:
    """The facts that a family reads from configs, with those of its presets on top.

    facts  from what video_infinity.json says, which is beside model_index.json or nowhere
    Raises ModelError if a config lacks or spoils an entry.
    """
    path = files.base / _EXTRA_FACTS
    extra = read_json(path) if path.exists() else {}
    try:
        found = facts(extra)
        _check(found)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"a config of {files.base} or {files.denoiser} lacks or spoils an entry ({reason}); "
            "fetch or save it again"
        ) from error
    return replace(found, defaults=replace(found.defaults, **files.preset.defaults))


_COUNTS = ("pixels_per_latent", "size_multiple", "latent_channels", "frames_per_latent")
_LARGEST = 2**16


def _check(facts: ModelFacts) -> None:
    """Raise ValueError for facts that no model has."""
    for name in _COUNTS:
        value = getattr(facts, name)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            raise ValueError(f"{name} would be {shown(value)}")
    if not all(isinstance(word, str) for word in facts.vocabulary):
        raise ValueError("vocabulary holds what is no word")


def with_extra(defaults: ModelDefaults, extra: dict[str, Any]) -> ModelDefaults:
    """A family's defaults with what video_infinity.json says on top."""
    known = {f.name for f in fields(ModelDefaults)}
    return replace(defaults, **{name: value for name, value in extra.items() if name in known})
