"""The methods by name: which options each reads, and what it takes where they are left open. Pure.

Legend: W frames of a window
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

SCOPE_OPTIONS = frozenset(
    ("local_frames", "global_frames", "global_rule", "local_bias", "global_bias", "bias_switch")
)
FRONT_OPTIONS = frozenset(("front_frames", "front_span"))
WINDOW_OPTIONS = frozenset(("window_frames", "stride_frames"))
NOISES = ("plain", "freenoise")
CONDITIONINGS = ("clean", "replacement")
CUTS = ("conv", "norm", "attention")
"""Parts of the context exchange that an ablation leaves out."""
SCOPE_PARTS = ("local", "global", "bias")
"""Parts of dual-scope attention that an ablation leaves out."""


@dataclass(frozen=True)
class Traits:
    """What a request may ask of a method.

    options           those that it reads, of those that not every method does
    stride            frames from one window to the next, by W, where the request leaves it open
    overlaps          whether windows must share frames
    noise             what it begins with, where the request leaves it open
    resumes           whether its latents after a step are all of its state
    frame_timesteps   whether the denoiser must take a timestep of its own for each frame
    steps_by_window   whether it takes a multiple of W steps
    """

    options: frozenset[str] = WINDOW_OPTIONS
    stride: Callable[[int], int] = lambda width: width
    overlaps: bool = False
    noise: str = "plain"
    resumes: bool = True
    frame_timesteps: bool = False
    steps_by_window: bool = False


def _quarter(width: int) -> int:
    return max(1, width // 4)


METHODS: MappingProxyType[str, Traits] = MappingProxyType(
    {
        "clip-parallel": Traits(options=SCOPE_OPTIONS | FRONT_OPTIONS | {"without"}),
        "direct": Traits(options=frozenset()),
        "independent": Traits(options=frozenset(("window_frames",))),
        "freenoise": Traits(stride=_quarter, noise="freenoise"),
        "multidiffusion": Traits(stride=lambda width: max(1, width // 2)),
        "autoregressive": Traits(
            options=WINDOW_OPTIONS | {"conditioning"},
            stride=lambda width: max(1, width // 2),
            overlaps=True,
            resumes=False,
        ),
        "masked-continuation": Traits(
            stride=lambda width: max(1, width - _quarter(width)),
            overlaps=True,
            resumes=False,
            frame_timesteps=True,
        ),
        "fifo": Traits(
            options=frozenset(("window_frames",)),
            resumes=False,
            frame_timesteps=True,
            steps_by_window=True,
        ),
    }
)

FIFO_PARTS = 4
"""Windows in FIFO-Diffusion's queue, where the request leaves its steps open."""


def parts_left_out(without: str | None) -> tuple[str, ...]:
    """The names that `--without conv,norm` lists."""
    return tuple(part.strip() for part in without.split(",")) if without else ()


def options_read(method: str, noise: str | None, without: str | None) -> frozenset[str]:
    """The options that a method reads, of those that not every method does."""
    traits = METHODS[method]
    read = traits.options
    if noise == "freenoise" or set(CUTS).intersection(parts_left_out(without)):
        read = read | {"window_frames"}
    return read


def noise_stride(method: str, window_frames: int, stride_frames: int | None) -> int:
    """How many frames FreeNoise shuffles at a time."""
    if method == "freenoise" and stride_frames is not None:
        return stride_frames
    return _quarter(window_frames)
