"""What a person asks for: one request of all its parts. It and specs.py alone validate options.

A field that is None is the model's to choose, or the method's; `resolve` fills it in from the
model's facts. The names of the fields are the names of the flags and of the keys in a config file,
but for those in SPELLINGS.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_type_hints

from video_infinity.checks import SPELLINGS, flag, shown
from video_infinity.errors import ConfigError
from video_infinity.peers import (
    FIFO_PARTS,
    FRONT_OPTIONS,
    METHODS,
    SCOPE_OPTIONS,
    options_read,
)
from video_infinity.specs import (
    MethodSpec,
    ModelSpec,
    OutputSpec,
    RunSpec,
    ScopeSpec,
    VideoSpec,
)
from video_infinity.timeline import PromptTimeline

__all__ = [
    "SPELLINGS",
    "MethodSpec",
    "ModelSpec",
    "OutputSpec",
    "RunSpec",
    "ScopeSpec",
    "VideoSpec",
    "flag",
]

T = TypeVar("T")

DEFAULT_OUTPUT = Path("video.mp4")
"""Where the command writes unless told; the Python API writes nothing of its own accord."""


def chosen(value: T | None) -> T:
    """A field of a resolved request, which is never None."""
    assert value is not None, "the request is not resolved"
    return value


_PARTS: dict[str, Any] = {
    "model": ModelSpec,
    "video": VideoSpec,
    "scopes": ScopeSpec,
    "how": MethodSpec,
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
    how: MethodSpec = field(default_factory=MethodSpec)
    output: OutputSpec = field(default_factory=OutputSpec)
    run: RunSpec = field(default_factory=RunSpec)

    def __post_init__(self) -> None:
        if self.video.num_frames is not None:
            self.timeline.check_length(self.video.num_frames)
        _check_effects(self)

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


def _check_effects(request: Request) -> None:
    """Raise ConfigError for an option that its method would ignore, or cannot do."""
    how, run, traits = request.how, request.run, METHODS[request.how.method]
    zeroed = _zeroed(how)
    for part in (request.scopes, how):
        for name, value in asdict(part).items():
            optional = name not in ("method", "noise")
            if optional and value is not None and name not in how.reads:
                raise ConfigError(
                    f"{flag(name)} {value} has no effect with --method {how.method}; drop it"
                )
            if name in zeroed and value:
                raise ConfigError(f"{flag(name)} {value} has no effect --without {how.without}")
    if how.front_frames == 0 and how.front_span is not None:
        raise ConfigError(f"--front-span {how.front_span} has no effect with --front-frames 0")
    if how.noise is not None and request.video.initial_latents is not None:
        raise ConfigError(f"--noise {how.noise} has no effect with --initial-latents; drop one")
    if not traits.resumes and run.checkpoint_every not in ("auto", "never"):
        raise ConfigError(
            f"--checkpoint-every {run.checkpoint_every}: --method {how.method} cannot go on from a "
            "checkpoint; drop the flag"
        )
    steps, width = request.video.num_inference_steps, how.window_frames
    if traits.steps_by_window and steps is not None and width is not None and steps % width:
        low = max(width, steps // width * width)
        raise ConfigError(
            f"--num-inference-steps {steps}: --method {how.method} takes a multiple of "
            f"--window-frames {width}; the nearest are {low} and {low + width}"
        )


def _zeroed(how: MethodSpec) -> set[str]:
    """Scopes and biases that an ablation leaves out."""
    names = {
        "local": {"local_frames"},
        "global": {"global_frames"},
        "bias": {"local_bias", "global_bias"},
    }
    return set().union(*(names.get(part, set()) for part in how.parts_left_out))


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
    """What a model takes when the request leaves it open, by measurement where there was one.

    trained_frames  latent frames of the videos that it was trained on: W of every window
    """

    num_frames: int = 128
    num_inference_steps: int = 50
    guidance_scale: float = 9.0
    eta: float = 0.0
    fps: float = 8.0
    height: int = 256
    width: int = 256
    local_frames: int = 8
    global_frames: int = 16
    global_rule: str = "even"
    local_bias: float = 0.0
    global_bias: float = 0.0
    bias_switch: float = 800.0
    trained_frames: int = 16
    front_frames: int = 0
    front_span: int = 192


def resolve(request: Request, defaults: ModelDefaults) -> Request:
    """The request with every open field filled in that its method reads."""
    how, video, run = request.how, request.video, request.run
    traits = METHODS[how.method]
    known = asdict(defaults) | dict.fromkeys(_zeroed(how), 0)
    noise = how.noise
    if noise is None and video.initial_latents is None:
        noise = traits.noise
    read = options_read(how.method, noise, how.without)
    optional = SCOPE_OPTIONS | FRONT_OPTIONS
    known = {k: v for k, v in known.items() if k not in optional or k in read}
    front_frames = how.front_frames if how.front_frames is not None else defaults.front_frames
    if not front_frames:
        known.pop("front_span", None)
    width = how.window_frames or defaults.trained_frames
    if "window_frames" in read:
        known["window_frames"] = width
        if traits.steps_by_window:
            known["num_inference_steps"] = FIFO_PARTS * width
    if "stride_frames" in read:
        known["stride_frames"] = traits.stride(width)
    if not traits.resumes:
        run = replace(run, checkpoint_every="never")
    filled = {
        name: _filled(getattr(request, name), known) for name in ("video", "scopes", "output")
    }
    how = _filled(replace(how, noise=noise), known)
    return replace(request, **filled, how=how, run=run)


def _filled(part: T, known: Mapping[str, Any]) -> T:
    """A part with its open fields as `known` has them."""
    names = [f.name for f in fields(part) if getattr(part, f.name) is None]  # type: ignore[arg-type]
    return replace(part, **{n: known[n] for n in names if n in known})  # type: ignore[type-var]
