"""Command lines, config files and timelines: whatever they hold is a request or a mistake."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.drawn import FEWER, HOSTILE_YAML, PLAIN, SCALARS, ends_well, run
from video_infinity.cli import OPTIONS
from video_infinity.mesh import parse_axes
from video_infinity.options import read_config_file, read_request
from video_infinity.timeline import PromptTimeline

SMALL = st.integers(-2, 40).map(str)
"""A request with these, if it is one, is planned within a second."""
VALUES = (
    SMALL
    | st.sampled_from(["", "nan", "inf", "-inf", "1e999", "1.5", "1_0", "0x10", "１", "9" * 400])
    | st.sampled_from(
        ["auto", "never", "30s", "even", "rotating", "cfg=2", "cfg=2,clip=2", "\udcff"]
    )
    | st.text(st.characters(exclude_characters="\0"), max_size=12)
)
FLAGS = sorted(name for name in OPTIONS if name not in ("config", "model"))


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    told = []
    for name in draw(st.lists(st.sampled_from(FLAGS), max_size=4)):
        told.append("--" + name.replace("_", "-"))
        if OPTIONS[name][0]:
            told.append(draw(VALUES))
    return told + draw(st.lists(VALUES, max_size=2))


@FEWER
@given(words())
def test_command_lines(tiny_model: Path, told: list[str]) -> None:
    sizes = ["--num-frames", "6", "--height", "16", "--width", "16"]
    assert run("plan", "--model", str(tiny_model), *sizes, *told) in (0, 2)


@given(st.dictionaries(st.sampled_from([*FLAGS, "prompt"]), PLAIN))
def test_options_of_any_type(options: dict[str, Any]) -> None:
    assert ends_well(lambda: read_request(options))


def ends_well_on_a_file(name: str, text: str, call: Any) -> bool:
    """Whether a file with that text is read or refused, and nothing else lies beside it then."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / name
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return ends_well(lambda: call(path)) and [f.name for f in Path(place).iterdir()] == [name]


YAML_VALUES = st.sampled_from(HOSTILE_YAML) | SCALARS.map(json.dumps) | st.text(max_size=12)


@st.composite
def yaml_mappings(draw: st.DrawFn) -> str:
    names = st.sampled_from([*FLAGS, "prompt", "nosuch", *HOSTILE_YAML])
    return "\n".join(f"{draw(names)}: {draw(YAML_VALUES)}" for _ in range(draw(st.integers(1, 4))))


@given(yaml_mappings() | st.text(max_size=60) | YAML_VALUES)
def test_config_files(text: str) -> None:
    assert ends_well_on_a_file("run.yaml", text, read_config_file)


@st.composite
def timelines(draw: st.DrawFn) -> str:
    entries = [
        f"- {{start: {draw(YAML_VALUES)}, prompt: {draw(YAML_VALUES)}, "
        f"{draw(st.sampled_from(['transition', 'nosuch']))}: {draw(YAML_VALUES)}}}"
        for _ in range(draw(st.integers(1, 3)))
    ]
    return "\n".join(["- {start: 0, prompt: a}"] * draw(st.integers(0, 1)) + entries)


@given(timelines() | st.text(max_size=60) | YAML_VALUES)
def test_timelines_in_yaml(text: str) -> None:
    assert ends_well_on_a_file("story.yaml", text, PromptTimeline.from_file)


@given(PLAIN.map(json.dumps) | st.text(max_size=60) | YAML_VALUES)
def test_timelines_in_json(text: str) -> None:
    assert ends_well_on_a_file("story.json", text, PromptTimeline.from_file)


SPANS = st.fixed_dictionaries(
    {"start": st.integers(-1, 20), "prompt": st.text(max_size=3)},
    optional={"transition": st.integers(-1, 9)},
)


@given(st.lists(SPANS, max_size=5), st.integers(1, 30))
def test_a_timeline_says_what_holds_at_every_frame(entries: list[Any], num_frames: int) -> None:
    def read() -> None:
        timeline = PromptTimeline.from_entries(entries)
        timeline.check_length(num_frames)
        assert PromptTimeline.from_entries(timeline.to_json()) == timeline
        for frame in range(num_frames):
            mix = timeline.mix(frame)
            assert 0 <= mix.before <= mix.after < len(entries) and 0 <= mix.weight <= 1

    assert ends_well(read)


@given(st.text(alphabet="cfglip=,0123456789 -", max_size=16) | st.text(max_size=12))
def test_meshes(text: str) -> None:
    assert ends_well(lambda: parse_axes(text))
