"""What a person asks for, as frozen dataclasses: the only place that validates options.

A field that is None is the model's to choose; `resolve` fills it in from the model's facts.
The names of the fields are the names of the flags and of the keys in a config file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from video_infinity.errors import ConfigError
from video_infinity.timeline import PromptTimeline

T = TypeVar("T")

METHODS = ("clip-parallel", "independent")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
MAX_SEED = 2**63 - 1


def _check_range(
    name: str, value: float | None, low: float, high: float, *, whole: bool = True
) -> None:
    if value is None:
        return
    kind = "a whole number" if whole else "a number"
    right_type = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not right_type or not math.isfinite(value):
        raise ConfigError(f"{flag(name)}={value!r} is not {kind}")
    if not low <= value <= high:
        bound = f"at least {low:g}" if value < low else f"at most {high:g}"
        raise ConfigError(f"{flag(name)}={value} is out of range: it must be {bound}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{flag(name)}={value!r} is unknown; choose from {', '.join(choices)}")


def flag(name: str) -> str:
    """The command line's spelling of a field's name."""
    return "--" + name.replace("_", "-")


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
    """

    model: str = "demo"
    unet: str | None = None
    revision: str | None = None
    lora: str | None = None
    fps_condition: int | None = None
    device: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("model", "unet", "revision", "lora"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigError(f"{flag(name)}={value!r} must name something")
        _check_range("fps_condition", self.fps_condition, 1, 1000)
        _check_choice("device", self.device, DEVICES)
        _check_choice("dtype", self.dtype, DTYPES)


@dataclass(frozen=True)
class VideoSpec:
    """What the video is a function of, besides the model. Frames and sizes are in pixels."""

    num_frames: int = 128
    height: int | None = None
    width: int | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    initial_latents: Path | None = None

    def __post_init__(self) -> None:
        _check_range("num_frames", self.num_frames, 1, 10**9)
        _check_range("height", self.height, 1, 2**16)
        _check_range("width", self.width, 1, 2**16)
        _check_range("seed", self.seed, 0, MAX_SEED)
        _check_range("num_inference_steps", self.num_inference_steps, 1, 1000)
        _check_range("guidance_scale", self.guidance_scale, 0, 1000, whole=False)
        if not isinstance(self.negative_prompt, str):
            raise ConfigError(f"--negative-prompt={self.negative_prompt!r} is not text")


@dataclass(frozen=True)
class ScopeSpec:
    """Dual-scope attention. Frames are latent frames; biases are additive logits.

    bias_switch  training timestep, 0 to 1000: above it global_bias is on, below local_bias
    """

    local_frames: int | None = None
    global_frames: int | None = None
    local_bias: float | None = None
    global_bias: float | None = None
    bias_switch: float | None = None

    def __post_init__(self) -> None:
        _check_range("local_frames", self.local_frames, 0, 10**9)
        _check_range("global_frames", self.global_frames, 0, 10**6)
        _check_range("local_bias", self.local_bias, -1e4, 1e4, whole=False)
        _check_range("global_bias", self.global_bias, -1e4, 1e4, whole=False)
        _check_range("bias_switch", self.bias_switch, 0, 1000, whole=False)


@dataclass(frozen=True)
class OutputSpec:
    """Where results go. `fps` is for playback only."""

    output: Path = Path("video.mp4")
    fps: float | None = None
    save_latents: Path | None = None
    report: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        _check_range("fps", self.fps, 0.01, 1000, whole=False)


@dataclass(frozen=True)
class RunSpec:
    """How the work is shared out. None of it changes the video (but `method` does).

    nproc_per_node  ranks on this machine; None is one per GPU, else 1
    timeout_s       longest wait for another rank
    """

    method: str = "clip-parallel"
    nproc_per_node: int | None = None
    timeout_s: float = 600.0
    quiet: bool = False
    log_json: bool = False

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHODS)
        _check_range("nproc_per_node", self.nproc_per_node, 1, 4096)
        _check_range("timeout", self.timeout_s, 1, 10**6, whole=False)


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
        self.timeline.check_length(self.video.num_frames)

    @classmethod
    def from_options(cls, timeline: PromptTimeline, options: Mapping[str, Any]) -> Self:
        """Build from flat option names, as flags and config files give them.

        Raises ConfigError for a name that is no option, or a value that is out of range.
        """
        check_option_names(options)
        parts = {}
        for name, part in _PARTS.items():
            own = {f.name: options[f.name] for f in fields(part) if f.name in options}
            parts[name] = part(**_with_paths(own))
        return cls(timeline, **parts)

    def settings(self) -> dict[str, Any]:
        """All options, flat, as plain data for the report."""
        flat: dict[str, Any] = {}
        for name in _PARTS:
            flat |= asdict(getattr(self, name))
        return {key: str(v) if isinstance(v, Path) else v for key, v in flat.items()}


_PARTS: dict[str, Any] = {
    "model": ModelSpec,
    "video": VideoSpec,
    "scopes": ScopeSpec,
    "output": OutputSpec,
    "run": RunSpec,
}
_PATH_OPTIONS = ("initial_latents", "output", "save_latents", "report")
OPTION_NAMES = tuple(f.name for part in _PARTS.values() for f in fields(part))


def _with_paths(options: dict[str, Any]) -> dict[str, Any]:
    for name in _PATH_OPTIONS:
        value = options.get(name)
        if value is None or isinstance(value, Path):
            continue
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{flag(name)}={value!r} is not a file name")
        options[name] = Path(value)
    return options


def check_option_names(options: Mapping[str, Any]) -> None:
    """Raise ConfigError that names the options which do not exist."""
    unknown = sorted(str(name) for name in options if name not in OPTION_NAMES)
    if unknown:
        raise ConfigError(
            f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(OPTION_NAMES))}"
        )


def read_config_file(path: Path) -> dict[str, Any]:
    """Options from a YAML file; keys may be written with dashes. `timeout` is in seconds.

    Returns flat options; `prompt` and `timeline` may be among them.
    Raises ConfigError if it cannot be read, or holds a key that is no option.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, Mapping):
        raise ConfigError(f"{path} must hold option: value pairs, not a {type(loaded).__name__}")
    options = {str(key).replace("-", "_"): value for key, value in loaded.items()}
    if "timeout" in options:
        options["timeout_s"] = options.pop("timeout")
    if options.get("nproc_per_node") == "auto":
        options["nproc_per_node"] = None
    check_option_names({k: v for k, v in options.items() if k not in ("prompt", "timeline")})
    return options


@dataclass(frozen=True)
class ModelDefaults:
    """What a model takes when the request leaves it open, by measurement where there was one."""

    num_inference_steps: int = 50
    guidance_scale: float = 9.0
    fps: float = 8.0
    height: int = 256
    width: int = 256
    local_frames: int = 8
    global_frames: int = 16
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
