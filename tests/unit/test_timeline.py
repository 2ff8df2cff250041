"""Prompts over time: which text holds at which frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from video_infinity.errors import TimelineError
from video_infinity.timeline import PromptMix, PromptSpan, PromptTimeline, as_timeline

ENTRIES = [
    {"start": 0, "prompt": "a"},
    {"start": 4, "prompt": "b", "transition": 4},
    {"start": 8, "prompt": "c", "transition": 2},
    {"start": 12, "prompt": "d"},
]
STORY = PromptTimeline.from_entries(ENTRIES)


@pytest.mark.parametrize(
    ("frame", "mix"),
    [
        (0, (0, 0, 1.0)),
        (3, (0, 0, 1.0)),
        (4, (0, 1, 0.0)),  # a transition begins at its start, with the old text
        (5, (0, 1, 0.25)),
        (7, (0, 1, 0.75)),
        (8, (1, 2, 0.0)),  # the one before has just ended
        (9, (1, 2, 0.5)),
        (10, (2, 2, 1.0)),  # the first frame that is wholly the new text
        (11, (2, 2, 1.0)),
        (12, (3, 3, 1.0)),  # a cut
        (1000, (3, 3, 1.0)),
    ],
)
def test_mix(frame: int, mix: tuple[int, int, float]) -> None:
    assert STORY.mix(frame) == PromptMix(*mix)


def test_weight_is_linear_through_a_transition() -> None:
    story = PromptTimeline((PromptSpan(0, "a"), PromptSpan(3, "b", transition=10)))
    assert [story.mix(3 + n).weight for n in range(11)] == [n / 10 for n in range(11)]


def test_plain_data_and_back() -> None:
    assert PromptTimeline.from_entries(STORY.to_json()) == STORY
    assert STORY.prompts == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("story.yaml", "- {start: 0, prompt: a}\n- {start: 4, prompt: b}\n"),
        ("story.json", '[{"start": 0, "prompt": "a"}, {"start": 4, "prompt": "b"}]'),
        ("story", '[{"start": 0, "prompt": "a"}, {"start": 4, "prompt": "b"}]'),
    ],
)
def test_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    read = PromptTimeline.from_file(tmp_path / name)
    assert read.spans == (PromptSpan(0, "a"), PromptSpan(4, "b"))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "story.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "story.json").write_text("{")
    for name, language in (("story.yaml", "cannot be read"), ("story.json", "not JSON")):
        with pytest.raises(TimelineError, match=language):
            PromptTimeline.from_file(tmp_path / name)
    with pytest.raises(TimelineError, match="Is a directory"):
        PromptTimeline.from_file(tmp_path)


@pytest.mark.parametrize("num_frames", [12, 11, 1])
def test_an_entry_beyond_the_end(num_frames: int) -> None:
    with pytest.raises(TimelineError, match=rf"frame 12 lies beyond .* 0 to {num_frames - 1}"):
        STORY.check_length(num_frames)


def test_a_transition_may_end_with_the_video_and_not_later() -> None:
    story = PromptTimeline((PromptSpan(0, "a"), PromptSpan(4, "b", transition=4)))
    story.check_length(8)
    with pytest.raises(TimelineError, match="ends at 8, beyond the end: the video has 7 frames"):
        story.check_length(7)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "no entries"),
        ("abc", "list of"),
        ({"start": 0}, "list of"),
        ([3], "entry 0 is not a mapping: 3"),
        ([{"start": 0}], "prompt must be text, got None"),
        ([{"prompt": "a"}], "start must be a whole number of frames, got None"),
        ([{"start": True, "prompt": "a"}], "start must be a whole number of frames, got True"),
        ([{"start": 0, "prompt": "a", "transition": 1.5}], "transition must be a whole number"),
        ([{"start": 0, "prompt": "a", "end": 3}], "unknown keys end; known are"),
        ([{"start": -1, "prompt": "a"}], "starts at frame -1; its first entry must start at 0"),
        ([{"start": 0, "prompt": " "}], "prompt at frame 0 is empty"),
        ([*ENTRIES, {"start": 12, "prompt": "e"}], "12 follows frame 12; starts must rise"),
        ([*ENTRIES, {"start": 20, "prompt": "e", "transition": -1}], "transition -1: neither may"),
    ],
)
def test_mistakes(entries: Any, says: str) -> None:
    with pytest.raises(TimelineError, match=says):
        PromptTimeline.from_entries(entries)


def test_one_of_prompt_and_timeline() -> None:
    assert as_timeline("a", None) == PromptTimeline.single("a")
    assert as_timeline(None, STORY) is STORY
    assert as_timeline(None, ENTRIES) == STORY
    for prompt, timeline, says in (
        ("a", ENTRIES, "both"),
        (None, None, "empty"),
        ("\n", None, "empty"),
        (7, None, "7 is no text"),
    ):
        with pytest.raises(TimelineError, match=says):
            as_timeline(prompt, timeline)
