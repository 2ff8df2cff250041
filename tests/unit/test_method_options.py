"""What each method reads of a request, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from video_infinity.config import ModelDefaults, Request, resolve
from video_infinity.errors import ConfigError
from video_infinity.methods import METHODS
from video_infinity.peers import METHODS as TRAITS
from video_infinity.timeline import PromptTimeline

DEFAULTS = ModelDefaults(num_inference_steps=20, trained_frames=16)


def resolved(**options: Any) -> Request:
    return resolve(Request.from_options(PromptTimeline.single("a"), options), DEFAULTS)


def test_every_method_that_can_be_named_is_there() -> None:
    assert METHODS.keys() <= TRAITS.keys()


@pytest.mark.parametrize("method", TRAITS)
def test_a_resolved_request_is_one_that_is_taken(method: str) -> None:
    """A manifest keeps it, and `resume` reads it again."""
    request = resolved(method=method)
    again = Request.from_options(PromptTimeline.single("a"), request.settings())
    assert again == resolve(again, DEFAULTS) == request


@pytest.mark.parametrize(
    ("method", "window", "stride", "noise"),
    [
        ("clip-parallel", None, None, "plain"),
        ("direct", None, None, "plain"),
        ("independent", 16, None, "plain"),
        ("freenoise", 16, 4, "freenoise"),
        ("multidiffusion", 16, 8, "plain"),
        ("autoregressive", 16, 8, "plain"),
        ("masked-continuation", 16, 12, "plain"),
        ("fifo", 16, None, "plain"),
    ],
)
def test_windows_are_the_models_and_strides_the_methods(
    method: str, window: int | None, stride: int | None, noise: str
) -> None:
    request = resolved(method=method)
    assert (request.how.window_frames, request.how.stride_frames) == (window, stride)
    assert request.how.noise == noise
    assert (request.scopes.local_frames is None) == (method != "clip-parallel")
    assert (request.run.checkpoint_every == "auto") == TRAITS[method].resumes
    steps = 64 if method == "fifo" else 20
    assert request.video.num_inference_steps == steps


def test_the_noise_of_a_file_is_no_ones_else() -> None:
    assert resolved(method="freenoise", initial_latents="z.safetensors").how.noise is None


def test_freenoise_is_for_others_too_and_has_a_window() -> None:
    request = resolved(noise="freenoise")
    assert (request.how.window_frames, request.scopes.local_frames) == (16, 8)


@pytest.mark.parametrize(
    ("without", "field", "value"),
    [
        ("local", "local_frames", 0),
        ("global", "global_frames", 0),
        ("bias,local", "local_bias", 0),
        ("conv, norm", "window_frames", 16),
    ],
)
def test_what_an_ablation_leaves_out(without: str, field: str, value: int) -> None:
    assert resolved(without=without).settings()[field] == value


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a scope": (
        {"method": "fifo", "local_frames": 3},
        "--local-frames 3 has no effect with --method fifo; drop it",
    ),
    "a window": (
        {"window_frames": 3},
        "--window-frames 3 has no effect with --method clip-parallel; drop it",
    ),
    "a stride": (
        {"method": "independent", "stride_frames": 3},
        "--stride-frames 3 has no effect with --method independent; drop it",
    ),
    "a conditioning": (
        {"method": "masked-continuation", "conditioning": "clean"},
        "--conditioning clean has no effect with --method masked-continuation; drop it",
    ),
    "an unknown conditioning": (
        {"method": "autoregressive", "conditioning": "x"},
        "--conditioning 'x' is unknown; choose from clean, replacement",
    ),
    "an ablation": (
        {"method": "direct", "without": "conv"},
        "--without conv has no effect with --method direct; drop it",
    ),
    "a scope that is left out": (
        {"without": "local", "local_frames": 3},
        "--local-frames 3 has no effect --without local",
    ),
    "gaps": (
        {"method": "multidiffusion", "window_frames": 4, "stride_frames": 5},
        "--stride-frames 5 with --window-frames 4: multidiffusion needs 4 at most; lower it",
    ),
    "a stride of the model's window": (
        {"method": "freenoise", "stride_frames": 17},
        "--stride-frames 17 with --window-frames 16: freenoise needs 16 at most; lower it",
    ),
    "nothing known": (
        {"method": "autoregressive", "window_frames": 4, "stride_frames": 4},
        "--stride-frames 4 with --window-frames 4: autoregressive needs 3 at most; lower it",
    ),
    "steps of a queue": (
        {"method": "fifo", "num_inference_steps": 50},
        "--num-inference-steps 50: --method fifo takes a multiple of --window-frames 16; the "
        "nearest are 48 and 64",
    ),
    "checkpoints": (
        {"method": "fifo", "checkpoint_every": 5},
        "--checkpoint-every 5: --method fifo cannot go on from a checkpoint; drop the flag",
    ),
    "two noises": (
        {"noise": "freenoise", "initial_latents": "z.safetensors"},
        "--noise freenoise has no effect with --initial-latents; drop one",
    ),
    "fronts of a method that has none": (
        {"method": "direct", "front_frames": 4},
        "--front-frames 4 has no effect with --method direct; drop it",
    ),
    "a span of no fronts": (
        {"front_frames": 0, "front_span": 96},
        "--front-span 96 has no effect with --front-frames 0",
    ),
    "a span where the model has no fronts": (
        {"front_span": 96},
        "--front-span 96 has no effect with --front-frames 0",
    ),
    "an unknown noise": ({"noise": "pink"}, "--noise 'pink' is unknown; choose from plain, free"),
    "an unknown part": ({"without": "conv,x"}, "--without 'x' is unknown; choose from conv, norm"),
    "no text": ({"without": 3}, "--without 3 is no text; write conv,norm"),
    "no window": (
        {"method": "fifo", "window_frames": 0},
        "--window-frames 0 is out of range; give a whole number from 1 to 1000000",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_ignored_is_refused(case: str) -> None:
    options, told = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        resolved(**options)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("options", "joins"),
    [
        ({}, ()),
        ({"without": "bias"}, ()),
        ({"without": "norm"}, (13, 26)),
        ({"front_frames": 2}, ()),
        ({"front_frames": 2, "front_span": 20}, (20,)),
        ({"front_frames": 2, "front_span": 20, "without": "conv"}, (13, 26)),
        ({"method": "direct"}, ()),
        ({"method": "fifo"}, ()),
        ({"method": "independent"}, (13, 26)),
        ({"method": "independent", "window_frames": 10}, (10, 20, 30)),
        ({"method": "multidiffusion"}, (8, 16, 24)),
        ({"method": "freenoise"}, (4, 8, 12, 16, 20, 24)),
        ({"method": "autoregressive"}, (16, 24, 32)),
        ({"method": "autoregressive", "window_frames": 40}, ()),
        ({"method": "masked-continuation"}, (16, 28)),
    ],
)
def test_joins_are_where_a_method_goes_on_from_what_it_made_apart(
    options: dict[str, Any], joins: tuple[int, ...]
) -> None:
    """Of 40 latent frames, W = 16: clips of 14, 13 and 13; chunks that end at 16, 24, 32 and 40
    of stride 8, and at 16, 28 and 40 of stride 12."""
    how = resolved(**options).how
    assert METHODS[how.method].joins(how, 40) == joins
