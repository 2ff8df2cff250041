"""The words of the embedded model's world, and what each of them stands for.

Pure data: what draws this world is in `training/world.py` of the repository.
"""

from __future__ import annotations

from dataclasses import dataclass

SIZE = 64
SPEED_RANGE = (2.0, 3.0)  # pixels a frame
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 240),
    "yellow": (240, 220, 50),
    "white": (245, 245, 245),
    "purple": (180, 60, 220),
}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (rows, columns)
BACKGROUNDS = {
    "black": (10, 10, 10),
    "navy": (20, 25, 70),
    "maroon": (80, 20, 25),
    "forest": (20, 60, 35),
    "gray": (95, 95, 95),
}
SHADING = (0.7, 1.3)  # the background's factor at the top and at the bottom
VOCABULARY = (
    *("a", "moving", "on", "background"),
    *DIGITS,
    *COLOURS,
    *DIRECTIONS,
    *BACKGROUNDS,
)


@dataclass(frozen=True)
class Scene:
    """The four words that a prompt states."""

    digit: str
    colour: str
    direction: str
    background: str

    def prompt(self) -> str:
        """The sentence of this scene, which `parse_prompt` reads back."""
        subject = f"a {self.colour} {self.digit} moving {self.direction}"
        return f"{subject} on a {self.background} background"


def parse_prompt(prompt: str) -> Scene:
    """The scene that a prompt of the world's grammar states.

    Raises ValueError if the prompt is not a sentence of the grammar.
    """
    words = prompt.split()
    if len(words) == 9:
        scene = Scene(words[2], words[1], words[4], words[7])
        known = (
            scene.digit in DIGITS
            and scene.colour in COLOURS
            and scene.direction in DIRECTIONS
            and scene.background in BACKGROUNDS
        )
        if known and scene.prompt() == prompt:
            return scene
    raise ValueError(f"prompt {prompt!r} is not of the form {Scene('D', 'C', 'M', 'B').prompt()!r}")
