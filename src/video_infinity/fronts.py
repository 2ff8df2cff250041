"""When each frame of a denoise that moves on in fronts takes its first step. Pure.

The timeline is cut into stretches of at most `span` frames, as even as can be. The frame in the
middle of each leads, and two fronts move outwards from it by `frames` a step: a frame begins when
one reaches it. What is settled first then leads what lies beyond, where frames that all begin
together are settled in every neighbourhood apart.

A denoise of N steps takes at most N + span / (2 frames) in all, however long the video.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fronts:
    """frames: how many begin in a step, of one front; span: of a stretch that one frame leads."""

    frames: int
    span: int

    def leading(self, num_frames: int) -> list[int]:
        """The frames of a timeline that begin first."""
        stretches = -(-num_frames // self.span)
        return [(2 * k + 1) * num_frames // (2 * stretches) for k in range(stretches)]

    def delays(self, num_frames: int) -> list[int]:
        """The step that every frame of a timeline begins with."""
        leading, delays, nearest = self.leading(num_frames), [], 0
        for frame in range(num_frames):
            while (
                nearest + 1 < len(leading)
                and leading[nearest + 1] - frame < frame - leading[nearest]
            ):
                nearest += 1
            delays.append(abs(frame - leading[nearest]) // self.frames)
        return delays

    def longest_delay(self, num_frames: int) -> int:
        """Of all frames of a timeline: how many steps a denoise takes beyond its own."""
        return max(self.delays(num_frames))
