"""In which measures a column is better than another, and in which worse, by more than chance. Data
in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.studies import REAL
from video_infinity_evaluation.pages import values_of
from video_infinity_evaluation.report import Row
from video_infinity_evaluation.statistics import CONFIDENCE, over_prompts

VERDICTS = """### Where another column is better than {first}, and where worse

By every measure that says what is good, video by video: what the interval of the differences keeps
apart from 0, as the mean of the column and, in brackets, of {first}. Where there is no difference,
chance alone says *better* once in {once_in}, and this is the outcome of {asked} comparisons. An
interval of two prompts is wide and rarely says anything.

"""


@dataclass(frozen=True)
class Difference:
    """One measure of a column against the same of the first.

    gain  the mean of the column's advantages, so that more is better; 0 if chance may be all
    """

    name: str
    own: float
    base: float
    gain: float


def verdicts(rows: Sequence[Row]) -> str:
    """Markdown: a line for each column and length, with what the column is better and worse in than
    the first one. `real` is left out: it is nobody's method. Empty with nothing to compare."""
    columns = [c for c in dict.fromkeys(row["job"]["method"] for row in rows) if c != REAL]
    if len(columns) < 2:
        return ""
    first, *others = columns
    lines, asked = [], 0
    for column in others:
        for num_frames in sorted({row["job"]["num_frames"] for row in rows}):
            of_length = [row for row in rows if row["job"]["num_frames"] == num_frames]
            found = differences(of_length, column, first)
            if not found:
                continue
            asked += len(found)
            better = [_told(d) for d in found if d.gain > 0]
            worse = [_told(d) for d in found if d.gain < 0]
            lines.append(
                f"| {column} | {num_frames:,} | {', '.join(better)} | {', '.join(worse)} |"
            )
    if not lines:
        return ""
    once_in = round(2 / (1 - CONFIDENCE))
    head = f"| | frames | better than {first} | worse |\n| --- | --- | --- | --- |\n"
    told = VERDICTS.format(first=first, once_in=once_in, asked=f"{asked:,}")
    return told + head + "\n".join(lines) + "\n"


def differences(rows: Sequence[Row], column: str, first: str) -> list[Difference]:
    """Of rows of one length, every measure that says what is good and that both columns have of
    two prompts or more."""
    found = []
    for name, good in _goods(rows).items():
        own, base = (values_of(rows, method, name) for method in (column, first))
        shared = sorted(set(own) & set(base))
        gains = {video: _merit(own[video], good) - _merit(base[video], good) for video in shared}
        if len({prompt for prompt, _ in shared}) < 2:
            continue
        gain = over_prompts(gains)
        own_mean, base_mean = (over_prompts({v: of[v] for v in shared}).mean for of in (own, base))
        apart = gain.mean if gain.excludes_zero else 0.0
        found.append(Difference(name, own_mean, base_mean, apart))
    return found


def _goods(rows: Sequence[Row]) -> Mapping[str, str]:
    """What is good, of each measure that says so."""
    return {
        name: told["good"]
        for row in rows
        for name, told in row["measures"].items()
        if told.get("good")
    }


def _merit(value: float, good: str) -> float:
    return {"high": value, "low": -value, "1": -abs(value - 1)}[good]


def _told(difference: Difference) -> str:
    return f"{difference.name} {difference.own:.4g} ({difference.base:.4g})"
