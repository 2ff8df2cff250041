"""From the name that a person gives to a model's facts, and to the loaded model.

A family is found by the denoiser's own class as its config declares it.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files as package_files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from video_infinity.adapters.base import Adapter, ModelFacts
from video_infinity.adapters.files import locate, read_json
from video_infinity.adapters.fingerprint import fingerprint
from video_infinity.adapters.footprint import Footprint, Workload
from video_infinity.config import ModelSpec
from video_infinity.errors import ModelError

EMBEDDED_MODEL = Path(str(package_files("video_infinity"))) / "demo" / "model"
EMBEDDED_WAN = EMBEDDED_MODEL.with_name("wan")


@dataclass(frozen=True)
class Family:
    """The modules for one class of denoiser.

    facts   offers `inspect`; imports neither diffusers nor transformers, which take seconds
    driver  offers `load`, `wrap`, `drives` and `footprint`
    """

    facts: str
    driver: str


FAMILIES = MappingProxyType(
    {
        "UNet3DConditionModel": Family(
            "video_infinity.adapters.unet3d_facts", "video_infinity.adapters.unet3d"
        ),
        "WanTransformer3DModel": Family(
            "video_infinity.adapters.wan_facts", "video_infinity.adapters.wan"
        ),
    }
)
"""Denoiser class in config.json -> what knows it."""

DENOISERS = ("unet", "transformer")
"""Names that a pipeline's denoiser goes by."""


@dataclass(frozen=True)
class Preset:
    """A short name for a set of repositories.

    denoiser   another repository's denoiser, in place of the base's
    defaults   fields of ModelDefaults that differ from the family's
    scheduler  the scheduler's class and settings, over the base's own
    """

    base: str
    about: str
    denoiser: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)


PRESETS = MappingProxyType(
    {
        "demo": Preset(str(EMBEDDED_MODEL), "embedded: handwritten digits that move, 64x64"),
        "demo-wan": Preset(str(EMBEDDED_WAN), "embedded: the same world by a small Wan, 64x64"),
        "videocrafter2": Preset(
            "cerspense/zeroscope_v2_576w",
            "VideoCrafter2's denoiser with ZeroScope's autoencoder and text encoder",
            denoiser="adamdad/videocrafterv2_diffusers",
            defaults={
                "num_inference_steps": 30,
                "guidance_scale": 12.0,
                "fps": 24.0,
                "height": 320,
                "width": 512,
            },
            scheduler={
                "_class_name": "DPMSolverMultistepScheduler",
                "algorithm_type": "sde-dpmsolver++",
            },
        ),
    }
)


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model lie, and what a preset adds to them."""

    name: str
    base: Path
    denoiser: Path
    lora: Path | None
    preset: Preset


def inspect_model(spec: ModelSpec) -> ModelFacts:
    """What a model is, from its configs and file headers alone; no weight is read.

    Raises ModelError if it is missing, broken, or of a family that the engine does not drive.
    """
    files = _find(spec)
    return _facts(files, spec)


def load_model(spec: ModelSpec, *, reads_text: bool = True) -> Adapter:
    """Load a model onto `spec.device` (never "auto") in `spec.dtype`, ready to run.

    reads_text  whether to load the text encoder, which rank 0 alone needs
    Raises ModelError as `inspect_model` does, and if the weights do not fit the configs.
    """
    files = _find(spec)
    facts = _facts(files, spec)
    driver = _driver(_family(files))
    return driver.load(files, spec, facts, reads_text=reads_text)  # type: ignore[no-any-return]


def model_scheduler(spec: ModelSpec) -> Any:
    """The diffusers scheduler that `load_model` gives a model, without reading a weight.

    Raises ModelError as `inspect_model` does, and if diffusers has no such scheduler.
    """
    files = _find(spec)
    components = import_module("video_infinity.adapters.components")
    return components.load_scheduler(files.base / "scheduler", files.preset.scheduler)


def trace_model(
    spec: ModelSpec,
    facts: ModelFacts,
    height: int,
    width: int,
    workloads: Sequence[Workload] = (),
) -> Footprint:
    """What one frame of a model costs, and passes that are asked for, without its weights."""
    files = _find(spec)
    driver = _driver(_family(files))
    return driver.footprint(files, facts, height, width, workloads)  # type: ignore[no-any-return]


def model_fingerprint(spec: ModelSpec) -> dict[str, str]:
    """What tells a model from another of the same name: a digest for each of its files."""
    files = _find(spec)
    roots = {"model": files.base, "denoiser": files.denoiser}
    if files.denoiser.is_relative_to(files.base):
        del roots["denoiser"]
    return fingerprint(roots if files.lora is None else {**roots, "lora": files.lora})


def adapter_of(pipe: Any) -> Adapter:
    """Drive the modules of a diffusers pipeline that is already loaded.

    Raises ModelError if its denoiser is of no family that the engine drives.
    """
    parts = [getattr(pipe, name, None) for name in DENOISERS]
    denoiser = next((part for part in parts if part is not None), None)
    for driver in map(_driver, FAMILIES.values()):
        if driver.drives(denoiser):
            return driver.wrap(pipe)  # type: ignore[no-any-return]
    raise ModelError(
        f"a pipeline with a {type(denoiser).__name__} cannot be driven; known: {_known()}"
    )


def _find(spec: ModelSpec) -> ModelFiles:
    preset = PRESETS.get(spec.model) or Preset(spec.model, "")
    base = locate(preset.base, spec.revision, "--model")
    index = read_json(base / "model_index.json")
    denoiser = base / next((name for name in DENOISERS if name in index), DENOISERS[0])
    other = spec.unet or preset.denoiser
    if other is not None:
        root = locate(other, None, "--unet")
        inside = [root / name for name in DENOISERS if (root / name).is_dir()]
        denoiser = inside[0] if inside else root
    lora = locate(spec.lora, None, "--lora") if spec.lora else None
    return ModelFiles(spec.model, base, denoiser, lora, preset)


def _driver(family: Family) -> Any:
    """What drives a family, imported without a search for garbage, of which an import makes none:
    looking through all that it makes again and again is a sixth of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(family.driver)
    finally:
        if was_enabled:
            gc.enable()


def _facts(files: ModelFiles, spec: ModelSpec) -> ModelFacts:
    facts = import_module(_family(files).facts)
    return facts.inspect(files, spec)  # type: ignore[no-any-return]


def _family(files: ModelFiles) -> Family:
    declared = read_json(files.denoiser / "config.json").get("_class_name")
    family = FAMILIES.get(str(declared))
    if family is None:
        raise ModelError(
            f"{files.denoiser} holds a {declared}, which this engine does not drive; "
            f"known: {_known()}"
        )
    return family


def _known() -> str:
    return ", ".join(FAMILIES)
