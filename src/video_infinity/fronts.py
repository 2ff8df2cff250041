"""When each frame of a denoise that moves on in fronts takes its first step. Pure.

Some frames lead: frame 0 and every `span` frames after it. From each, two fronts move outwards by
`frames` a step, and a frame begins when one reaches it. What is settled first then leads what lies
beyond, where frames that all begin together are settled in every neighbourhood apart.

A denoise of N steps takes N + span / (2 frames) in all, up to N + span / frames where a long
stretch lies beyond the last frame that leads. More of the video's length does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fronts:
    """frames: how many begin in a step, of one front; span: from one leading frame to the next."""

    frames: int
    span: int

    def delays(self, num_frames: int, wanted: Iterable[int] | None = None) -> list[int]:
        """Of the wanted frames of a timeline, all unless told, the step that they begin with."""
        last = (num_frames - 1) // self.span * self.span
        wanted = range(num_frames) if wanted is None else wanted
        return [self._distance(frame, last) // self.frames for frame in wanted]

    def longest_delay(self, num_frames: int) -> int:
        """Of all frames of a timeline: how many steps a denoise takes beyond its own."""
        last = (num_frames - 1) // self.span * self.span
        between = self.span // 2 if last else 0
        return max(between, num_frames - 1 - last) // self.frames

    def _distance(self, frame: int, last: int) -> int:
        """To the nearest frame that leads."""
        since = frame % self.span
        return since if frame >= last else min(since, self.span - since)
