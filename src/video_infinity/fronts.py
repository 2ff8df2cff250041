"""When each frame of a denoise that moves on in fronts takes its first step. Pure.

The timeline is cut into stretches of at most `span` frames, as even as can be. The first frames of
each lead, and a front moves on from there by `frames` a step: a frame begins when it is reached.
What is settled first then leads what comes after it, where frames that all begin together are
settled in every neighbourhood apart. A pass of the denoiser is about the frames that take a step
and their neighbours; what waits or is done further away is left out.

A denoise of N steps takes at most N + span / frames in all, however long the video.
"""

from __future__ import annotations

from dataclasses import dataclass

from video_infinity.windows import even_spans


@dataclass(frozen=True)
class Fronts:
    """frames: how many begin in a step, of one front; span: of a stretch that one moves through."""

    frames: int
    span: int

    def delays(self, num_frames: int) -> list[int]:
        """The step that every frame of a timeline begins with."""
        stretches = even_spans(num_frames, self.span)
        return [place // self.frames for stretch in stretches for place in range(len(stretch))]

    def longest_delay(self, num_frames: int) -> int:
        """Of all frames of a timeline: how many steps a denoise takes beyond its own."""
        return max(self.delays(num_frames))

    def parts(
        self, num_frames: int, done: int, num_inference_steps: int, reach: int
    ) -> list[range]:
        """What the pass after `done` steps is about: frames that take a step, and up to `reach` on
        both sides of them, as spans that do not touch."""
        parts: list[range] = []
        for stretch in even_spans(num_frames, self.span):
            first = stretch.start + max(0, done + 1 - num_inference_steps) * self.frames
            stop = min(stretch.stop, stretch.start + (done + 1) * self.frames)
            if first >= stop:
                continue
            part = range(max(0, first - reach), min(num_frames, stop + reach))
            if parts and part.start <= parts[-1].stop:
                part = range(parts.pop().start, part.stop)
            parts.append(part)
        return parts

    def sizes(self, num_frames: int, num_inference_steps: int, reach: int) -> list[int]:
        """How many frames every pass of a denoise is about."""
        total = num_inference_steps + self.longest_delay(num_frames)
        every = (self.parts(num_frames, done, num_inference_steps, reach) for done in range(total))
        return [sum(map(len, parts)) for parts in every]
