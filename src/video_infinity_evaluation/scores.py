"""What was measured of one video, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Group = Literal["vbench", "length", "world"]


@dataclass(frozen=True)
class Measure:
    """One number about a video.

    name   with its unit, where it has one
    value  None where it was not measured; `note` then says why
    good   what a good video has: "high", "low", "1", or "" where it depends
    by     the backend, or "" where a formula alone gives the value
    """

    name: str
    value: float | None
    group: Group
    good: str = ""
    by: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Fields for JSON, without the empty ones."""
        known = {"value": self.value, "group": self.group}
        texts = {"good": self.good, "by": self.by, "note": self.note}
        return known | {name: text for name, text in texts.items() if text}


@dataclass(frozen=True)
class Scores:
    """All measures of one video, and how some of them go over its frames.

    borders  first frames of its clips, but the first
    series   values over time, by name; one of F - 1 values belongs to pairs of neighbours
    """

    video: str
    num_frames: int
    fps: float
    height: int
    width: int
    prompt: str | None
    borders: tuple[int, ...]
    measures: tuple[Measure, ...]
    series: Mapping[str, tuple[float, ...]] = field(repr=False, default_factory=dict)

    def __getitem__(self, name: str) -> float | None:
        """The value of a measure. Raises KeyError if there is none of that name."""
        for measure in self.measures:
            if measure.name == name:
                return measure.value
        raise KeyError(name)

    def values(self) -> dict[str, float]:
        """Every measure that has a value, by its name."""
        return {m.name: m.value for m in self.measures if m.value is not None}

    def as_dict(self, *, series: bool = True) -> dict[str, Any]:
        """For JSON: numbers are finite, or null."""
        known: dict[str, Any] = {
            "video": self.video,
            "num_frames": self.num_frames,
            "fps": self.fps,
            "height": self.height,
            "width": self.width,
            "prompt": self.prompt,
            "borders": list(self.borders),
            "measures": {measure.name: measure.as_dict() for measure in self.measures},
        }
        if series:
            known["series"] = {
                name: [v if math.isfinite(v) else None for v in values]
                for name, values in self.series.items()
            }
        return known
