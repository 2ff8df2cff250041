"""Intervals against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from video_infinity_evaluation.statistics import interval, over_prompts, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 101])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.995])
def test_quantiles_are_scipys(degrees: int, probability: float) -> None:
    expected = stats.t.ppf(probability, degrees)
    assert t_quantile(degrees, probability) == pytest.approx(expected, rel=1e-7)


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(3, 2, 12)
    found = interval(values.tolist())
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )
    normal = 1.96 * stats.sem(values)
    assert found.half_width is not None and found.half_width > 1.1 * normal, "not the normal's"


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert interval([2.0]).half_width is None
    assert str(interval([2.0])) == "2"
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_seeds_of_a_prompt_count_once() -> None:
    values = {("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 6.0, ("b", 1): 6.0, ("c", 0): 4.0}
    assert over_prompts(values) == interval([2.0, 6.0, 4.0])
    assert over_prompts(values) != interval(list(values.values()))
    assert over_prompts({("a", 0): 1.0, ("a", 1): 3.0}) == interval([1.0, 3.0])
