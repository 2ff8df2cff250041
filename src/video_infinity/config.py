"""What a person asks for, as frozen dataclasses: the only place that validates options.

A field that is None is the model's to choose; `resolve` fills it in from the model's facts.
The names of the fields are the names of the flags and of the keys in a config file, but for those
in SPELLINGS.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_type_hints

from video_infinity.cadence import Cadence
from video_infinity.checks import (
    SPELLINGS,
    check_choice,
    check_range,
    check_switch,
    flag,
    is_utf8,
    shown,
)
from video_infinity.errors import ConfigError
from video_infinity.mesh import parse_axes
from video_infinity.plan import GLOBAL_RULES
from video_infinity.timeline import MAX_FRAMES, PromptTimeline

__all__ = ["SPELLINGS", "flag"]

T = TypeVar("T")

METHODS = ("clip-parallel", "independent")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
MAX_SEED = 2**63 - 1
DEFAULT_OUTPUT = Path("video.mp4")
"""Where the command writes unless told; the Python API writes nothing of its own accord."""


def chosen(value: T | None) -> T:
    """A field of a resolved request, which is never None."""
    assert value is not None, "the request is not resolved"
    return value


@dataclass(frozen=True)
class ModelSpec:
    """Which weights, from where, on what.

    model          embedded name, preset, directory or hub id in diffusers format
    unet, lora     directory or hub id of another denoiser, of low-rank updates
    fps_condition  frames per second that VideoCrafter2's denoiser is told
    offload        keep the denoiser's weights on the CPU, and bring them to the GPU by blocks
    compile_blocks let torch.compile have the denoiser's repeated blocks
    """

    model: str = "demo"
    unet: str | None = None
    revision: str | None = None
    lora: str | None = None
    fps_condition: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    offload: bool = False
    compile_blocks: bool = False

    def __post_init__(self) -> None:
        for name in ("model", "unet", "revision", "lora"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                told = f"{flag(name)} {shown(value)}"
                raise ConfigError(f"{told} is no name; give one, or leave it out")
        check_range("fps_condition", self.fps_condition, 1, 1000)
        check_choice("device", self.device, DEVICES)
        check_choice("dtype", self.dtype, DTYPES)
        check_switch("offload", self.offload)
        check_switch("compile_blocks", self.compile_blocks)


@dataclass(frozen=True)
class VideoSpec:
    """What the video is a function of, besides the model. Frames and sizes are in pixels.

    guidance_scale_2  for a model's second expert, which takes over at low noise; None: the same
    vae_tiling        decode large pictures in overlapping tiles, which changes them slightly
    """

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    negative_prompt: str = ""
    initial_latents: Path | None = None
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        check_range("num_frames", self.num_frames, 1, MAX_FRAMES)
        check_range("height", self.height, 1, 2**16)
        check_range("width", self.width, 1, 2**16)
        check_range("seed", self.seed, 0, MAX_SEED)
        check_range("num_inference_steps", self.num_inference_steps, 1, 1000)
        check_range("guidance_scale", self.guidance_scale, 0, 1000, whole=False)
        check_range("guidance_scale_2", self.guidance_scale_2, 0, 1000, whole=False)
        check_switch("vae_tiling", self.vae_tiling)
        negative = self.negative_prompt
        if not isinstance(negative, str) or not is_utf8(negative):
            raise ConfigError(f"--negative-prompt {shown(negative)} is no text; put quotes")


@dataclass(frozen=True)
class ScopeSpec:
    """Dual-scope attention. Frames are latent frames; biases are additive logits.

    global_rule  "even": the same global frames at every step; "rotating": one place on per step
    bias_switch  training timestep, 0 to 1000: above it global_bias is on, below local_bias
    """

    local_frames: int | None = None
    global_frames: int | None = None
    global_rule: str | None = None
    local_bias: float | None = None
    global_bias: float | None = None
    bias_switch: float | None = None

    def __post_init__(self) -> None:
        check_range("local_frames", self.local_frames, 0, 10**9)
        check_range("global_frames", self.global_frames, 0, 10**6)
        if self.global_rule is not None:
            check_choice("global_rule", self.global_rule, GLOBAL_RULES)
        check_range("local_bias", self.local_bias, -10_000, 10_000, whole=False)
        check_range("global_bias", self.global_bias, -10_000, 10_000, whole=False)
        check_range("bias_switch", self.bias_switch, 0, 1000, whole=False)


@dataclass(frozen=True)
class OutputSpec:
    """Where results go; None is nowhere. `fps` is for playback only."""

    output: Path | None = None
    fps: float | None = None
    save_latents: Path | None = None
    report: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_range("fps", self.fps, 0.01, 1000, whole=False)
        check_switch("overwrite", self.overwrite)


@dataclass(frozen=True)
class RunSpec:
    """How the work is shared out. None of it changes the video (but `method` does).

    nproc_per_node       ranks on this machine; None is one per GPU, else 1
    parallel             the mesh, such as "cfg=2,clip=4"; None: all ranks along the clips
    sequential_guidance  branches of the guidance one after the other: less memory, more rounds
    timeout_s            longest wait for another rank
    run_dir              where checkpoints go, and stay; None: beside the output, until it is done
    checkpoint_every     steps, or text as Cadence reads it
    max_restarts         how often a run goes on by itself after a rank has failed
    """

    method: str = "clip-parallel"
    nproc_per_node: int | None = None
    parallel: str | None = None
    sequential_guidance: bool = False
    timeout_s: float = 600.0
    run_dir: Path | None = None
    checkpoint_every: int | str = "auto"
    max_restarts: int = 0
    quiet: bool = False
    log_json: bool = False

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_range("nproc_per_node", self.nproc_per_node, 1, 4096, also=", or auto")
        if self.parallel is not None:
            if not isinstance(self.parallel, str):
                told = f"--parallel {shown(self.parallel)}"
                raise ConfigError(f"{told} is no text; write cfg=2,clip=4")
            parse_axes(self.parallel)
        check_switch("sequential_guidance", self.sequential_guidance)
        check_range("timeout_s", self.timeout_s, 1, 10**6, whole=False)
        check_range("max_restarts", self.max_restarts, 0, 1000)
        Cadence.parse(self.checkpoint_every)
        check_switch("quiet", self.quiet)
        check_switch("log_json", self.log_json)


_PARTS: dict[str, Any] = {
    "model": ModelSpec,
    "video": VideoSpec,
    "scopes": ScopeSpec,
    "output": OutputSpec,
    "run": RunSpec,
}
OPTION_NAMES = tuple(f.name for part in _PARTS.values() for f in fields(part))
HINTS = {name: hint for part in _PARTS.values() for name, hint in get_type_hints(part).items()}


@dataclass(frozen=True)
class Request:
    """Everything that one run needs to know."""

    timeline: PromptTimeline
    model: ModelSpec = field(default_factory=ModelSpec)
    video: VideoSpec = field(default_factory=VideoSpec)
    scopes: ScopeSpec = field(default_factory=ScopeSpec)
    output: OutputSpec = field(default_factory=OutputSpec)
    run: RunSpec = field(default_factory=RunSpec)

    def __post_init__(self) -> None:
        if self.video.num_frames is not None:
            self.timeline.check_length(self.video.num_frames)

    @classmethod
    def from_options(cls, timeline: PromptTimeline, options: Mapping[str, Any]) -> Self:
        """Build from flat option names; an option that is None takes its default.

        Raises ConfigError for a name that is no option, or a value that is out of range.
        """
        return cls(timeline, **check_options(options))

    def settings(self) -> dict[str, Any]:
        """All options, flat, as plain data for the report."""
        flat: dict[str, Any] = {}
        for name in _PARTS:
            flat |= asdict(getattr(self, name))
        return {key: str(v) if isinstance(v, Path) else v for key, v in flat.items()}


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a Request from flat options; raises ConfigError as `from_options` does."""
    unknown = [str(name) for name in options if name not in OPTION_NAMES]
    if unknown:
        raise ConfigError(unknown_option(unknown[0], OPTION_NAMES))
    given = {k: _as_path(k, v) for k, v in options.items() if v is not None}
    return {
        name: part(**{f.name: given[f.name] for f in fields(part) if f.name in given})
        for name, part in _PARTS.items()
    }


def unknown_option(name: str, known: Iterable[str]) -> str:
    """The message for a name that is no option: what is near it, else all there are."""
    names = sorted(SPELLINGS.get(name, name) for name in known)
    near = difflib.get_close_matches(name, names, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    return f"unknown option {name}; {remedy}"


def _as_path(name: str, value: Any) -> Any:
    if Path not in get_args(HINTS[name]) or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        told = f"{flag(name)} {shown(value)}"
        raise ConfigError(f"{told} is no file name; give one, or leave it out")
    return Path(value)


@dataclass(frozen=True)
class ModelDefaults:
    """What a model takes when the request leaves it open, by measurement where there was one."""

    num_frames: int = 128
    num_inference_steps: int = 50
    guidance_scale: float = 9.0
    fps: float = 8.0
    height: int = 256
    width: int = 256
    local_frames: int = 8
    global_frames: int = 16
    global_rule: str = "even"
    local_bias: float = 0.0
    global_bias: float = 0.0
    bias_switch: float = 800.0


def resolve(request: Request, defaults: ModelDefaults) -> Request:
    """The request with every open field filled in from the model's defaults."""
    chosen = {}
    for name in ("video", "scopes", "output"):
        part = getattr(request, name)
        chosen[name] = replace(
            part,
            **{
                f.name: getattr(defaults, f.name)
                for f in fields(part)
                if getattr(part, f.name) is None and hasattr(defaults, f.name)
            },
        )
    return replace(request, **chosen)
