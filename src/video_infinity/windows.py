"""Windows over a timeline that is longer than what a model was trained on. Pure.

Frames here are latent frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Windows:
    """A window of `window_frames` every `stride_frames`, and one more where the video ends.

    A video that is no longer than a window is one window.
    """

    window_frames: int
    stride_frames: int

    def __post_init__(self) -> None:
        assert 1 <= self.stride_frames <= self.window_frames, "windows must touch"

    @lru_cache(maxsize=64)  # noqa: B019 (frozen, and few)
    def spans(self, num_frames: int) -> tuple[range, ...]:
        """The windows, rising; together they cover the video."""
        width = min(self.window_frames, num_frames)
        last = num_frames - width
        starts = [*range(0, last + 1, self.stride_frames)]
        if starts[-1] < last:
            starts.append(last)
        return tuple(range(start, start + width) for start in starts)

    def spread(self, num_frames: int) -> tuple[range, ...]:
        """As many windows as `spans`, as evenly as can be: none overlaps far more than the others,
        as the last of `spans` can."""
        spans = self.spans(num_frames)
        count, last, width = len(spans) - 1, spans[-1].start, len(spans[0])
        starts = [(index * last + count // 2) // count for index in range(count)] + [last]
        return tuple(range(start, start + width) for start in starts)

    def over(self, frames: range, num_frames: int) -> tuple[range, ...]:
        """The windows that hold some of `frames`."""
        return tuple(
            w for w in self.spans(num_frames) if w.start < frames.stop and frames.start < w.stop
        )


def even_spans(num_frames: int, most_frames: int) -> tuple[range, ...]:
    """As few spans as hold `most_frames` at most; their lengths differ by one at most."""
    count = -(-num_frames // most_frames)
    bounds = [index * num_frames // count for index in range(count + 1)]
    return tuple(itertools.starmap(range, itertools.pairwise(bounds)))


def joins_of(spans: Sequence[range]) -> tuple[int, ...]:
    """Where rising spans begin, but the first."""
    return tuple(span.start for span in spans[1:])


def pyramid_weight(place: int, window_frames: int) -> int:
    """What a window's result counts at one of its frames: 1, 2, ... up to the middle, and down.

    Source: Qiu et al., FreeNoise (2023), section 3.2.
    """
    return min(place + 1, window_frames - place)
