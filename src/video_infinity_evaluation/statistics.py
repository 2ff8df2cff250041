"""Means with intervals, over prompts and seeds. Pure; needs neither SciPy nor a random draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and half the width of its interval (None for one value); `count` values."""

    mean: float
    half_width: float | None
    count: int

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} ± {self.half_width:.2g}"

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's t-interval of the mean of independent values.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values, so no mean")
    mean, count = fmean(values), len(values)
    if count == 1:
        return Interval(mean, None, 1)
    half_width = t_quantile(count - 1, (1 + confidence) / 2) * stdev(values) / math.sqrt(count)
    return Interval(mean, half_width, count)


def over_prompts(values: Mapping[tuple[str, int], float]) -> Interval:
    """The interval over prompts, of values by (prompt, seed).

    Seeds of one prompt are no independent draws of what people ask for, so their mean counts as
    one value; with one prompt alone the seeds are the values.
    """
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        by_prompt.setdefault(prompt, []).append(value)
    if len(by_prompt) == 1:
        return interval(next(iter(by_prompt.values())))
    return interval([fmean(of_prompt) for of_prompt in by_prompt.values()])


def t_quantile(degrees: int, probability: float) -> float:
    """The value below which Student's t with `degrees` of freedom lies with `probability`.

    probability  from 0.5 to below 1; found by bisection of the distribution, to 1e-9
    """
    low, high = 0.0, 1.0
    while _t_below(high, degrees) < probability:
        high *= 2
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _t_below(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0, in closed form.

    Source: Abramowitz, Stegun (1964), 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    if degrees % 2:
        term, total = cosine, 0.0
        for k in range(1, (degrees - 1) // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k) / (2 * k + 1)
        both = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 0.0
        for k in range(1, degrees // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k - 1) / (2 * k)
        both = sine * total
    return 0.5 + both / 2
