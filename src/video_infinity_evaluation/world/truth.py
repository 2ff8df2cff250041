"""Is a video of the embedded model what its prompt says, frame by frame, to its very end?

Nothing here is a guess: the world has one digit of one colour on one background, which moves along
one axis by 2 to 3 pixels a frame and turns at the borders.

F frames, P = F - 1 steps, B frames at a time, H = W = 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from video_infinity_evaluation.footage import Frame
from video_infinity_evaluation.scores import Measure
from video_infinity_evaluation.world import words
from video_infinity_evaluation.world.reading import read, read_digits
from video_infinity_evaluation.world.words import Scene

JUMP_PX = 8.0
STILL_PX = 0.5
"""Steps beyond these are none of the world, which moves by 2 to 3 pixels a frame."""
FIRST_STEPS, MIN_MOVE_PX = 3, 2.0
"""The first direction is read over so many steps; less than that is no motion."""
BORDER_PX = 8.0
"""A turn as close to the picture's middle as this is not at a border."""
NO_COLOUR = -1
SHARES = frozenset(
    (
        "digit right (frames)",
        "colour right (frames)",
        "background right (frames)",
        "same digit (frames)",
        "first direction right",
        "steps on the axis",
        "jumps (steps)",
        "standing still (steps)",
        "turns at a border",
    )
)
"""Measures that make up the mean of the world."""


@dataclass(frozen=True)
class Sighting:
    """What was read of a video.

    digit_F, colour_F, background_F  indices into the tables of `words`; colour -1 for no digit
    centre_F2                        (row, column) of the digit in pixels
    """

    digit_F: npt.NDArray[np.int64]
    colour_F: npt.NDArray[np.int64]
    background_F: npt.NDArray[np.int64]
    centre_F2: npt.NDArray[np.float64]


class Witness:
    """Reads frames as they go by; keeps five numbers of each."""

    def __init__(self) -> None:
        self._parts: list[tuple[npt.NDArray[np.float64], ...]] = []

    def see_all(self, frames: Sequence[Frame]) -> None:
        """Take the next frames."""
        frames_BHW3 = torch.from_numpy(np.stack(frames))
        reading = read(frames_BHW3.permute(0, 3, 1, 2).float() / 255)
        digit_B = read_digits(reading.patch)
        parts = (digit_B, reading.colour, reading.background, reading.centre)
        self._parts.append(tuple(part.numpy() for part in parts))

    def sighting(self) -> Sighting:
        """Of all frames so far."""
        return Sighting(*(np.concatenate(column) for column in zip(*self._parts, strict=True)))


def words_right(seen: Sighting, scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
    """For each frame, whether digit, colour and background are those of the prompt."""
    present_F = seen.colour_F != NO_COLOUR
    return {
        "digit": present_F & (seen.digit_F == words.DIGITS.index(scene.digit)),
        "colour": seen.colour_F == list(words.COLOURS).index(scene.colour),
        "background": seen.background_F == list(words.BACKGROUNDS).index(scene.background),
    }


def measure(seen: Sighting, scene: Scene) -> tuple[Measure, ...]:
    """Shares of frames or steps that are the world's, and the drift of the words.

    `drift of the words` is the share right in the first third of the video less that in the last:
    what a mean over the video does not tell.
    """
    right = words_right(seen, scene)
    all_right_F = right["digit"] & right["colour"] & right["background"]
    present_F = seen.colour_F != NO_COLOUR
    counts = np.bincount(seen.digit_F[present_F], minlength=len(words.DIGITS))
    third = max(1, len(all_right_F) // 3)
    shares = {f"{word} right (frames)": float(right_F.mean()) for word, right_F in right.items()}
    shares["all words right (frames)"] = float(all_right_F.mean())
    shares["same digit (frames)"] = float(counts.max() / len(present_F))
    measures = [Measure(name, value, "world", "high") for name, value in shares.items()]
    gone = float(all_right_F[:third].mean() - all_right_F[-third:].mean())
    measures.append(Measure("drift of the words", gone, "world", "low"))
    measures += _motion(seen.centre_F2, scene)
    return (_mean_of_the_world(measures), *measures)


def _mean_of_the_world(measures: Sequence[Measure]) -> Measure:
    """One number: the mean of all shares, of those that should be low what they leave of 1.

    The words together are left out, as each counts; so are measures that are no shares.
    """
    shares = [
        m.value if m.good == "high" else 1 - m.value
        for m in measures
        if m.name in SHARES and m.value is not None
    ]
    return Measure("mean of the world", float(np.mean(shares)), "world", "high")


def _motion(centre_F2: npt.NDArray[np.float64], scene: Scene) -> list[Measure]:
    direction = np.array(words.DIRECTIONS[scene.direction], np.float64)
    step_P2 = np.diff(np.asarray(centre_F2, np.float64), axis=0)
    length_P = np.linalg.norm(step_P2, axis=1)
    along_P, across_P = step_P2 @ direction, np.abs(step_P2 @ direction[::-1])
    first, aside = (
        along_P[:FIRST_STEPS].sum(),
        np.abs(step_P2[:FIRST_STEPS].sum(0) @ direction[::-1]),
    )
    moving_P = length_P >= STILL_PX
    on_axis_P = np.abs(along_P) > across_P
    turns, at_border = turns_of(centre_F2 @ np.abs(direction))
    steady = np.linalg.norm(np.diff(step_P2, axis=0), axis=1)
    bends = np.delete(steady, np.clip(turns - 1, 0, len(steady) - 1)) if len(steady) else steady
    found = [
        ("first direction right", float(first >= MIN_MOVE_PX and first > aside), "high"),
        ("steps on the axis", float(on_axis_P[moving_P].mean()) if moving_P.any() else 0.0, "high"),
        ("jumps (steps)", float((length_P > JUMP_PX).mean()), "low"),
        ("standing still (steps)", float((~moving_P).mean()), "low"),
        ("turns at a border", float(at_border.mean()) if len(turns) else None, "high"),
        ("roughness, pixels", float(np.median(bends)) if len(bends) else None, "low"),
        ("median step, pixels", float(np.median(length_P)), ""),
    ]
    why_none = {"turns at a border": "it never turns", "roughness, pixels": "too short"}
    return [
        Measure(name, value, "world", good, note=why_none[name] if value is None else "")
        for name, value, good in found
    ]


def turns_of(
    place_F: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Frames at which motion along the axis turns back, and whether that is at a border.

    place_F  the digit's coordinate along its axis, in pixels
    """
    step_P = np.diff(place_F)
    moved = np.flatnonzero(np.abs(step_P) >= STILL_PX)
    turned = np.flatnonzero(np.diff(np.sign(step_P[moved])) != 0)
    frames = moved[turned + 1]
    middle = (words.SIZE - 1) / 2
    return frames, np.abs(place_F[frames] - middle) >= BORDER_PX
