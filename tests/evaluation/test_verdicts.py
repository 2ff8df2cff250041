"""Which column is better in what: told where the interval of paired differences says so, and only
there."""

from __future__ import annotations

from benchmarks.verdicts import differences, verdicts
from video_infinity_evaluation.report import Row

PROMPTS = ("a", "b", "c", "d")


def row(column: str, prompt: str, num_frames: int = 64, **values: float) -> Row:
    """A row of measures: what is good is told by the first word of their names."""
    measures = {
        name: {"value": value, "group": "world", "good": {"one": "1"}.get(word, word)}
        for name, value in values.items()
        for word in [name.split("_")[0]]
    }
    job = {"method": column, "prompt": prompt, "seed": 1, "num_frames": num_frames}
    return {"job": job, "measures": measures}


def pair(name: str, ours: tuple[float, ...], theirs: tuple[float, ...]) -> list[Row]:
    rows = [row("ours", p, **{name: v}) for p, v in zip(PROMPTS, ours, strict=False)]
    return rows + [row("peer", p, **{name: v}) for p, v in zip(PROMPTS, theirs, strict=False)]


def test_what_is_good_decides_which_is_better() -> None:
    low, high = (0.1, 0.2, 0.3, 0.4), (0.2, 0.31, 0.4, 0.49)
    for name, better in (("high_x", True), ("low_x", False)):
        (found,) = differences(pair(name, low, high), "peer", "ours")
        assert (found.gain > 0) is better and found.gain != 0
    (nearer,) = differences(pair("one_x", (0.5, 0.6, 0.5), (1.1, 1.2, 1.15)), "peer", "ours")
    assert nearer.gain > 0, "0.1 from 1 is better than 0.5 from 1"


def test_chance_is_no_difference_and_pairs_decide() -> None:
    """Prompts differ far more than the columns: unpaired intervals would overlap."""
    (apart,) = differences(pair("high_x", (0.1, 0.9, 0.5), (0.2, 1.01, 0.6)), "peer", "ours")
    assert apart.gain > 0
    (mixed,) = differences(pair("high_x", (0.1, 0.9, 0.5), (0.2, 0.8, 0.6)), "peer", "ours")
    assert mixed.gain == 0
    assert differences(pair("high_x", (0.1,), (0.9,)), "peer", "ours") == [], "one prompt is none"


def test_a_line_for_each_column_and_length_with_both_means() -> None:
    rows = pair("high_x", (0.1, 0.2, 0.3), (0.2, 0.31, 0.4))
    rows += [row("real", p, high_x=1.0) for p in PROMPTS[:3]]
    rows += [row("ours", p, 128, high_x=0.5 + i) for i, p in enumerate(PROMPTS[:3])]
    rows += [row("peer", p, 128, high_x=0.4 + i) for i, p in enumerate(PROMPTS[:3])]
    text = verdicts(rows)
    assert "| peer | 64 | high_x 0.3033 (0.2) |  |" in text
    assert "| peer | 128 |  | high_x 1.4 (1.5) |" in text
    assert "better than ours" in text and "once in 40" in text and "of 2 comparisons" in text
    assert "| real |" not in text
    assert verdicts([r for r in rows if r["job"]["method"] == "ours"]) == ""
    assert verdicts(pair("high_x", (0.1,), (0.9,))) == ""
