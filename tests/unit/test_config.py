"""Options: what is valid, what a message says, and which of flag, file and default wins."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from video_infinity import cli
from video_infinity.config import (
    HINTS,
    OPTION_NAMES,
    ModelDefaults,
    Request,
    flag,
    resolve,
)
from video_infinity.errors import ConfigError, TimelineError
from video_infinity.options import read_request
from video_infinity.plan import GLOBAL_RULES
from video_infinity.timeline import PromptTimeline

ANY = PromptTimeline.single("a")

BOUNDS: dict[str, tuple[Any, Any, Any, Any]] = {
    "num_frames": (0, 1, 10**9, 10**9 + 1),
    "height": (0, 1, 2**16, 2**16 + 1),
    "seed": (-1, 0, 2**63 - 1, 2**63),
    "num_inference_steps": (0, 1, 1000, 1001),
    "guidance_scale": (-0.1, 0, 1000, 1000.1),
    "guidance_scale_2": (-0.1, 0, 1000, 1000.1),
    "eta": (-0.1, 0, 1, 1.1),
    "local_frames": (-1, 0, 10**9, 10**9 + 1),
    "global_frames": (-1, 0, 10**6, 10**6 + 1),
    "local_bias": (-10_001.0, -10_000, 10_000, 10_001),
    "bias_switch": (-1, 0, 1000, 1000.5),
    "fps": (0, 0.01, 1000, 1001),
    "fps_condition": (0, 1, 1000, 1001),
    "nproc_per_node": (0, 1, 4096, 4097),
    "timeout_s": (0.5, 1, 10**6, 10**6 + 1),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_range(name: str) -> None:
    below, lowest, highest, above = BOUNDS[name]
    for value in (lowest, highest):
        Request.from_options(ANY, {name: value})
    for value in (below, above):
        with pytest.raises(ConfigError) as raised:
            Request.from_options(ANY, {name: value})
        message = str(raised.value)
        assert message.startswith(f"{flag(name)} {value!r} is out of range; give a")
        assert f"from {lowest} to {highest}" in message


@pytest.mark.parametrize("value", ["8", [8], True, float("nan"), 8.5])
def test_a_whole_number_is_nothing_else(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"--num-frames .* is not a whole number; give"):
        Request.from_options(ANY, {"num_frames": value})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 10**400])
def test_numbers_without_end_are_out_of_range(value: Any) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Request.from_options(ANY, {"guidance_scale": value})


def test_none_is_the_default() -> None:
    assert Request.from_options(ANY, dict.fromkeys(OPTION_NAMES)) == Request(ANY)


def test_a_request_is_as_long_as_its_timeline_allows() -> None:
    late = PromptTimeline.from_entries([{"start": 0, "prompt": "a"}, {"start": 8, "prompt": "b"}])
    Request.from_options(late, {"num_frames": 9})
    with pytest.raises(TimelineError, match="raise --num-frames"):
        Request.from_options(late, {"num_frames": 8})


def test_a_request_of_the_models_length_is_held_to_it() -> None:
    late = PromptTimeline.from_entries([{"start": 0, "prompt": "a"}, {"start": 8, "prompt": "b"}])
    request = Request(late)
    assert request.video.num_frames is None
    assert resolve(request, ModelDefaults()).video.num_frames == 128
    with pytest.raises(TimelineError, match="raise --num-frames"):
        resolve(request, ModelDefaults(num_frames=8))


def test_a_rule_is_one_of_those_there_are() -> None:
    for rule in GLOBAL_RULES:
        request = Request.from_options(ANY, {"global_rule": rule})
        assert resolve(request, ModelDefaults()).scopes.global_rule == rule
    assert resolve(Request(ANY), ModelDefaults()).scopes.global_rule == "even"
    for other in ("random", 3, ["even"]):
        with pytest.raises(ConfigError, match=r"--global-rule .* choose from even, rotating"):
            Request.from_options(ANY, {"global_rule": other})


@pytest.mark.parametrize("name", ["overwrite", "quiet", "log_json", "vae_tiling"])
def test_a_switch_is_true_or_false(name: str) -> None:
    for value in ("yes", 1):
        with pytest.raises(ConfigError, match=f"{flag(name)} {value!r} is no switch"):
            Request.from_options(ANY, {name: value})
    assert Request.from_options(ANY, {name: True}).settings()[name] is True
    assert Request(ANY).settings()[name] is False


def test_settings_are_plain_data() -> None:
    request = Request.from_options(ANY, {"output": "v.mp4", "num_frames": 5})
    settings = json.loads(json.dumps(request.settings()))
    assert set(settings) == set(OPTION_NAMES)
    assert (settings["output"], settings["num_frames"]) == ("v.mp4", 5)


def test_resolve_fills_in_what_is_open_and_nothing_else() -> None:
    defaults = ModelDefaults(height=64, fps=12.0, global_bias=2.0, front_frames=3)
    asked = Request.from_options(ANY, {"fps": 5, "local_frames": 0})
    request = resolve(asked, defaults)
    assert (request.output.fps, request.scopes.local_frames) == (5, 0)
    assert (request.video.height, request.scopes.global_bias) == (64, 2.0)
    open_fields = {f.name for f in fields(ModelDefaults)} - {"trained_frames"}  # of windows, below
    assert None not in [request.settings()[name] for name in open_fields]
    assert request.output.output is None
    assert resolve(Request.from_options(ANY, {}), ModelDefaults()).how.front_span is None, (
        "there are no fronts"
    )


# Flags and config files


def test_every_option_has_a_flag_of_its_name() -> None:
    flags = {flag(name) for name in OPTION_NAMES}
    assert flags == {flag(name) for name in cli.OPTIONS} - {"--timeline", "--config"}


def test_text_becomes_what_its_field_holds() -> None:
    request = read_request(
        {
            "prompt": "a",
            "num_frames": "9",
            "guidance_scale": "7",
            "guidance_scale_2": "5",
            "global_rule": "rotating",
            "vae_tiling": True,
            "fps": "1e1",
            "timeout": "30",
            "report": "7",
            "negative_prompt": "7",
            "nproc_per_node": "auto",
        }
    )
    assert (request.video.num_frames, request.video.guidance_scale) == (9, 7.0)
    assert (request.video.guidance_scale_2, request.video.vae_tiling) == (5.0, True)
    assert request.scopes.global_rule == "rotating"
    assert (request.output.fps, request.run.timeout_s) == (10.0, 30.0)
    assert (request.output.report, request.video.negative_prompt) == (Path("7"), "7")
    assert request.run.nproc_per_node is None
    assert request.output.output == Path("video.mp4")


def test_flag_before_file_before_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("num-frames: 9\nseed: 3\nfps:\ntimeout: 5\nnproc_per_node: 2\nprompt: b\n")
    request = read_request({"prompt": "a", "config": str(file), "seed": "4"})
    assert request.timeline.prompts == ("a",)
    assert (request.video.num_frames, request.video.seed) == (9, 4)
    assert (request.output.fps, request.run.timeout_s) == (None, 5)
    again = read_request({"config": str(file), "nproc_per_node": "auto"})
    assert again.timeline.prompts == ("b",)
    assert again.run.nproc_per_node is None


def test_a_prompt_flag_stands_in_for_the_files_timeline(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("timeline: [{start: 0, prompt: b}]")
    assert read_request({"config": str(file)}).timeline.prompts == ("b",)
    assert read_request({"config": str(file), "prompt": "a"}).timeline.prompts == ("a",)


def test_an_empty_config_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").touch()
    assert read_request({"prompt": "a", "config": str(tmp_path / "run.yaml")}).video.seed == 0


def test_hints_are_of_every_option() -> None:
    assert set(HINTS) == set(OPTION_NAMES)
