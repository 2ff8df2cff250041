"""Prompts over time: which text holds at which frame. Pure; knows nothing of ranks.

Frames here are pixel frames; an adapter says which pixel frame a latent frame stands for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from video_infinity.checks import as_key, is_utf8, shown
from video_infinity.errors import TimelineError
from video_infinity.yamlfile import read_yaml

MAX_FRAMES = 10**9


@dataclass(frozen=True)
class PromptSpan:
    """One entry of a timeline: from pixel frame `start` on, `prompt` holds.

    transition  frames over which the text fades in from the one before; 0 is a cut
    """

    start: int
    prompt: str
    transition: int = 0


@dataclass(frozen=True)
class PromptMix:
    """The text of one frame: (1 - weight) * prompts[before] + weight * prompts[after]."""

    before: int
    after: int
    weight: float


@dataclass(frozen=True)
class PromptTimeline:
    """Ordered spans that cover the video from frame 0 on.

    Raises TimelineError if the spans are empty, unsorted, do not start at 0, hold an empty
    prompt, or if a transition is negative, runs at frame 0 or past the next span's start.
    """

    spans: tuple[PromptSpan, ...]

    def __post_init__(self) -> None:
        if not self.spans:
            raise TimelineError(
                "the timeline has no entries; give at least {start: 0, prompt: ...}"
            )
        if self.spans[0].start != 0:
            raise TimelineError(
                f"the timeline starts at frame {self.spans[0].start}; "
                "its first entry must start at 0"
            )
        for span, following in zip(self.spans, (*self.spans[1:], None), strict=True):
            _check_span(span, following)

    @classmethod
    def single(cls, prompt: str) -> PromptTimeline:
        """One prompt for the whole video."""
        return cls((PromptSpan(0, prompt),))

    @classmethod
    def from_entries(cls, entries: Any) -> PromptTimeline:
        """Build from parsed YAML or JSON: a list of {start, prompt, transition}.

        Raises TimelineError with the entry's number if one has a wrong key or type.
        """
        if not isinstance(entries, Sequence) or isinstance(entries, str | bytes):
            raise TimelineError(
                f"a timeline is a list of {{start, prompt}} entries, not {type(entries).__name__}"
            )
        return cls(tuple(_parse_span(number, entry) for number, entry in enumerate(entries)))

    @classmethod
    def from_file(cls, path: Path) -> PromptTimeline:
        """Read a YAML or JSON file. Raises TimelineError if it cannot be read or parsed."""
        return cls.from_entries(read_yaml(path, "--timeline", TimelineError))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts, in the order of the spans."""
        return tuple(span.prompt for span in self.spans)

    def check_length(self, num_frames: int) -> None:
        """Raise TimelineError if a span starts, or a transition ends, beyond the video."""
        last = self.spans[-1]
        if last.start >= num_frames:
            raise TimelineError(
                f"timeline entry at frame {last.start} lies beyond the end: the video has "
                f"frames 0 to {num_frames - 1}; raise --num-frames or drop the entry"
            )
        if last.start + last.transition > num_frames:
            raise TimelineError(
                f"the transition at frame {last.start} ends at {last.start + last.transition}, "
                f"beyond the end: the video has {num_frames} frames; shorten it"
            )

    def mix(self, frame: int) -> PromptMix:
        """The text at one pixel frame.

        A transition of n frames that begins at s weighs the new text by (frame - s) / n:
        frame s is still the old text, frame s + n is the first that is wholly the new one.
        """
        index = max(i for i, span in enumerate(self.spans) if span.start <= frame)
        span = self.spans[index]
        if frame - span.start >= span.transition:
            return PromptMix(index, index, 1.0)
        return PromptMix(index - 1, index, (frame - span.start) / span.transition)

    def to_json(self) -> list[dict[str, Any]]:
        """The entries as plain data, as `from_entries` reads them."""
        return [asdict(span) for span in self.spans]


def as_timeline(prompt: Any, timeline: Any) -> PromptTimeline:
    """One timeline from either a prompt or a timeline: a PromptTimeline, entries, or a file.

    Raises TimelineError if there is neither, or both, or an empty prompt.
    """
    if prompt is not None and timeline is not None:
        raise TimelineError("a prompt and a timeline are both there; give one of them")
    if isinstance(timeline, PromptTimeline):
        return timeline
    if isinstance(timeline, str | Path):
        return PromptTimeline.from_file(Path(timeline))
    if timeline is not None:
        return PromptTimeline.from_entries(timeline)
    if prompt is not None and not isinstance(prompt, str):
        raise TimelineError(f"the prompt {shown(prompt)} is no text; put it in quotes")
    if prompt is None or not prompt.strip():
        raise TimelineError(
            f"the prompt {shown(prompt or '')} is empty; say what to show, or give --timeline FILE"
        )
    return PromptTimeline.single(prompt)


def _parse_span(number: int, entry: Any) -> PromptSpan:
    if not isinstance(entry, Mapping):
        raise TimelineError(f"timeline entry {number} is not a mapping: {shown(entry)}")
    unknown = sorted(as_key(key) for key in entry if key not in ("start", "prompt", "transition"))
    if unknown:
        raise TimelineError(
            f"timeline entry {number} has unknown keys {', '.join(unknown)}; "
            "known are start, prompt, transition"
        )
    start, transition = entry.get("start"), entry.get("transition", 0)
    for name, value in (("start", start), ("transition", transition)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TimelineError(
                f"timeline entry {number}: {name} must be a whole number of frames, got "
                f"{shown(value)}"
            )
        if abs(value) > MAX_FRAMES:
            raise TimelineError(
                f"timeline entry {number}: {name} {shown(value)} is out of range; a video has "
                f"{MAX_FRAMES} frames at most"
            )
    prompt = entry.get("prompt")
    if not isinstance(prompt, str):
        raise TimelineError(f"timeline entry {number}: prompt must be text, got {shown(prompt)}")
    assert isinstance(start, int)
    return PromptSpan(start, prompt, transition)


def _check_span(span: PromptSpan, following: PromptSpan | None) -> None:
    if not span.prompt.strip():
        raise TimelineError(f"the prompt at frame {span.start} is empty; give it some text")
    if not is_utf8(span.prompt):
        raise TimelineError(f"the prompt {shown(span.prompt)} is no text in UTF-8; write it anew")
    if span.start < 0 or span.transition < 0:
        raise TimelineError(
            f"timeline entry at frame {span.start} with transition {span.transition}: "
            "neither may be negative"
        )
    if span.start == 0 and span.transition:
        raise TimelineError(
            f"the entry at frame 0 has a transition of {span.transition} frames from nothing; "
            "set it to 0"
        )
    if following is None:
        return
    if following.start <= span.start:
        raise TimelineError(
            f"the timeline is not sorted: frame {following.start} follows frame {span.start}; "
            "starts must rise"
        )
    if span.start + span.transition > following.start:
        raise TimelineError(
            f"the transition at frame {span.start} lasts {span.transition} frames and runs "
            f"past the next entry at {following.start}; shorten it"
        )
