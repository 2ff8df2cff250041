"""How often a running denoise is saved. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

from video_infinity.checks import shown
from video_infinity.errors import ConfigError

AUTO_SHARE = 0.01
"""The share of the time that checkpoints may take when the interval is left to us."""
AUTO_LEAST_S = 30.0


@dataclass(frozen=True)
class Cadence:
    """After how many steps or seconds a checkpoint is due.

    steps, seconds  infinite for never
    auto            the seconds are those that keep checkpoints to AUTO_SHARE of the time
    """

    steps: float = math.inf
    seconds: float = math.inf
    auto: bool = False

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read "auto", "never", a number of steps ("5") or of seconds ("30s").

        Raises ConfigError for anything else.
        """
        if text == "auto":
            return cls(seconds=AUTO_LEAST_S, auto=True)
        if text == "never":
            return cls()
        read = re.fullmatch(
            r"(\d{1,9}(?:\.\d{1,9})?)(s?)", text if isinstance(text, str) else shown(text)
        )
        if read is not None and not isinstance(text, bool | float):
            number, unit = float(read[1]), read[2]
            if unit and number > 0:
                return cls(seconds=number)
            if not unit and number >= 1 and number == int(number):
                return cls(steps=number)
        raise ConfigError(
            f"--checkpoint-every {shown(text)} is no interval; give steps (5), seconds (30s), "
            "auto or never"
        )

    @property
    def is_never(self) -> bool:
        return not self.auto and math.isinf(self.steps) and math.isinf(self.seconds)

    def is_due(self, steps: int, seconds: float, cost_s: float) -> bool:
        """Whether to save now, so many steps and seconds after the last time.

        cost_s  what the last checkpoint took
        """
        wait_s = max(self.seconds, cost_s / AUTO_SHARE) if self.auto else self.seconds
        return steps >= self.steps or seconds >= wait_s
