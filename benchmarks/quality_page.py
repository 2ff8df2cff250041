"""The text and the plots of `docs/results.md`, from rows that were measured. Data in, text out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fitting import MEMORY_LIMIT, by_length, frames_that_fit, peak_of, power, seconds_of
from benchmarks.plots import BLUE, COLOURS, GREY, figure_of, svg_of
from benchmarks.studies import REAL, Study
from benchmarks.times import Times
from benchmarks.verdicts import verdicts
from video_infinity_evaluation.pages import cell, summary, tables, values_of
from video_infinity_evaluation.report import Job, Made, Row, defaults_of, weights_of
from video_infinity_evaluation.statistics import Interval, over_prompts

HEADLINE = ("mean of the world", "all words right (frames)", "drift of the words", "dynamic_degree")
"""Measures that are told first; consistency never without the dynamic degree."""
PAGE = """# What was measured of the methods

Every method made the videos of the same prompts and seeds, with the same model, steps, guidance and
ranks (`fifo` alone has steps of its own: four for each frame of a window), and `video-infinity
evaluate` measured them over their whole length. A cell is the mean over the prompts that all
columns have at that length, its 95 % interval (Student's t over prompts) and their number. `real`
is the world's own rendering of the same prompts, seen through the same codec: what the measures say
where nothing is wrong. Every prompt has a seed of its own. [How each measure is
made](evaluation.md), [what each method is](methods.md).

Seams are measured where a method joins what it made apart: clips, chunks, starts of windows,
stretches of several fronts. Where it makes all frames as one, and in `real`, they are measured
where clips as long as the model was trained on would meet.

*Mean of the world* is the mean of the shares below it: words and digit, first direction, steps on
the axis, turns at a border, and what jumps and standing still leave of 1. Consistency rewards a
frozen picture: read it beside `dynamic_degree`. Where it stands *less that of* a column, it is the
mean of the differences on the same prompt and seed; bold is what its interval keeps apart from 0.
Of twenty such intervals one is expected to do so by chance.

Repeat: `{command} --out DIR --page FILE`. What was measured of each video is a line of
`rows.jsonl` in `DIR`; what is there is not made twice.

{timed}{done}

{notes}{sections}"""


@dataclass(frozen=True)
class Shown:
    """A study on one model, and what is measured of it so far.

    jobs   (column, job), the same job in several columns or studies at times
    times  of some of the jobs
    """

    study: Study
    model: str
    jobs: Sequence[tuple[str, Job]]
    rows: Mapping[Job, Row]
    times: Times = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"results-{self.study.name}-{self.model}"

    @property
    def sheet(self) -> str:
        """The contact sheet's file, of the weights and defaults that made its videos: a sheet
        outlives them."""
        made_by = weights_of(self.model)[:6], defaults_of(self.model)[:6]
        return "-".join((self.name, *made_by)) + ".png"

    def labelled(self) -> list[Row]:
        """The rows, with their columns in the place of the methods.

        Of each length, those prompts alone that every column has which has any: an unfinished
        report would else compare means over different prompts.
        """
        done: dict[int, dict[str, set[tuple[str, int]]]] = defaultdict(lambda: defaultdict(set))
        for column, job in self.jobs:
            if job in self.rows:
                done[job.num_frames][column].add((job.prompt, job.seed))
        shared = {length: set.intersection(*columns.values()) for length, columns in done.items()}
        return [
            {**self.rows[job], "job": {**self.rows[job]["job"], "method": column}}
            for column, job in self.jobs
            if job in self.rows and (job.prompt, job.seed) in shared[job.num_frames]
        ]

    @property
    def lengths(self) -> list[int]:
        """Numbers of frames of which there is a row."""
        return sorted({row["job"]["num_frames"] for row in self.labelled()})


def headline(shown: Shown) -> str:
    """Markdown: a table for each of HEADLINE, methods down and lengths across."""
    rows, parts = shown.labelled(), []
    columns = list(dict.fromkeys(row["job"]["method"] for row in rows))
    for name in HEADLINE:
        lines = [
            f"| {name} | {' | '.join(f'{n:,} frames' for n in shown.lengths)} |",
            f"| --- | {' | '.join('---' for _ in shown.lengths)} |",
        ]
        for column in columns:
            cells = [
                cell(summary([r for r in rows if r["job"]["num_frames"] == n], column, name))
                for n in shown.lengths
            ]
            lines.append(f"| {column} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def differences(shown: Shown) -> str:
    """Markdown: HEADLINE's first measure less the first column's, video by video.

    A prompt that is hard for all columns widens the interval of each mean, and not of these. Bold
    is what the interval keeps apart from 0. Empty for fewer than two columns.
    """
    rows, name = shown.labelled(), HEADLINE[0]
    columns = list(dict.fromkeys(row["job"]["method"] for row in rows))
    if len(columns) < 2:
        return ""
    first, *others = columns
    lines = [
        f"| {name}, less that of {first} | {' | '.join(f'{n:,} frames' for n in shown.lengths)} |",
        f"| --- | {' | '.join('---' for _ in shown.lengths)} |",
    ]
    for column in others:
        cells = []
        for n in shown.lengths:
            of_length = [row for row in rows if row["job"]["num_frames"] == n]
            base, own = (values_of(of_length, method, name) for method in (first, column))
            paired = {video: own[video] - base[video] for video in own if video in base}
            cells.append(_signed(over_prompts(paired)) if paired else "")
        lines.append(f"| {column} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _signed(found: Interval) -> str:
    text = f"{'+' if found.mean > 0 else ''}{cell(found)}"
    return f"**{text}**" if found.excludes_zero else text


def costs(shown: Shown) -> str:
    """Markdown: seconds and memory of each column, how they grow, and what fits. Empty where there
    are no two columns to compare."""
    columns: dict[str, list[Job]] = defaultdict(list)
    for column, job in shown.jobs:
        if job in shown.times:
            columns[column].append(job)
    if len(columns) < 2:
        return ""
    lengths = sorted({job.num_frames for jobs in columns.values() for job in jobs})
    lines = [
        f"| | {' | '.join(f's, {n:,}' for n in lengths)} | time grows as L to the power | "
        f"{' | '.join(f'MB, {n:,}' for n in lengths)} | longest made, MB | "
        f"frames in {MEMORY_LIMIT >> 20} MiB |",
        f"| --- |{' --- |' * (2 * len(lengths) + 3)}",
    ]
    for column, jobs in columns.items():
        seconds = _medians(shown, column, seconds_of)
        peaks = by_length(shown.times, jobs, peak_of)
        told = [f"{s:.1f}" if (s := seconds.get(n)) is not None else "" for n in lengths]
        held = [f"{p / 1e6:.0f}" if (p := peaks.get(n)) is not None else "" for n in lengths]
        longest, most = max(peaks.items())
        made = f"{longest:,}: {most / 1e6:,.0f}" if longest > lengths[-1] else ""
        lines.append(
            f"| {column} | {' | '.join(told)} | {_two_digits(power(seconds))} | "
            f"{' | '.join(held)} | {made} | {_frames(frames_that_fit(peaks))} |"
        )
    return "\n".join(lines) + "\n"


def _medians(shown: Shown, column: str, value_of: Callable[[Made], float]) -> dict[int, float]:
    """By the number of frames, over what was timed of the study's own lengths."""
    jobs = [job for name, job in shown.jobs if name == column and job in shown.times]
    return by_length({job: shown.times[job] for job in jobs}, jobs, value_of)


def _two_digits(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _frames(number: float | None) -> str:
    if number is None:
        return ""
    return "any" if math.isinf(number) else f"{int(number):,}"


def page(all_shown: Sequence[Shown], images: Path, command: str, machine: str) -> str:
    """The whole page; `images` says which pictures are there to be shown, and `machine` what the
    times were taken on."""
    sections = []
    for shown in all_shown:
        if not shown.rows:
            continue
        parts = [f"## {shown.study.title}: `{shown.model}`\n", headline(shown)]
        parts.append(differences(shown))
        for file, words in (
            (f"{shown.name}.svg", "Mean of the world and seconds by length"),
            (shown.sheet, _caption(shown)),
        ):
            if (images / file).exists():
                parts.append(f"![{words}](images/{file})\n\n*{words}.*\n")
        if told := costs(shown):
            parts += ["### Time and memory\n", _COSTS, told]
        parts.append(verdicts(shown.labelled()))
        parts.append(tables(shown.labelled()))
        sections.append("\n".join(parts))
    made, wanted = sum(len(s.rows) for s in all_shown), sum(len(s.jobs) for s in all_shown)
    done = f"{made} of {wanted} videos are measured." if made < wanted else ""
    timed = f"Times were taken on {machine}. " if machine else "No times are taken yet. "
    notes = images.parent / "results-notes.md"
    said = notes.read_text() + "\n" if notes.exists() else ""
    return PAGE.format(
        command=command, timed=timed, done=done, notes=said, sections="\n".join(sections)
    )


_COSTS = (
    "The first prompt's videos, made one after the other by `--times`, each by processes of its "
    "own, and again in another order where they are short: medians of denoise, decode and writing; "
    "memory is that of the rank that took most, above the model. The power follows from the two "
    "longest of these lengths; frames that fit, from the two longest that were made. What should "
    "fit by these lengths, and takes less than 40 minutes by its power, `--longest` makes once for "
    "its memory alone, with other work beside it at times; `--num-frames` asks for another "
    "length.\n"
)


def _caption(shown: Shown) -> str:
    longest = max(job.num_frames for _, job in shown.jobs)
    rows = ", ".join(dict.fromkeys(column for column, _ in shown.jobs))
    return f"{longest:,} frames of one prompt, from first to last; rows: {rows}"


def plots(all_shown: Sequence[Shown]) -> dict[str, str]:
    """SVG by file name, for each study with several lengths."""
    return {f"{s.name}.svg": _by_length(s) for s in all_shown if len(s.lengths) > 1}


def _by_length(shown: Shown) -> str:
    columns = list(dict.fromkeys(column for column, _ in shown.jobs))
    rows = shown.labelled()
    with figure_of(2, height=3.8) as (figure, axes):
        quality, cost = axes[0]
        for index, column in enumerate(columns):
            colour = GREY if column == REAL else (BLUE, *COLOURS[1:])[index % len(COLOURS)]
            style = "-" if index < len(COLOURS) else "--"
            points = [
                (n, found.mean, found.half_width or 0.0)
                for n in shown.lengths
                for found in [
                    summary([r for r in rows if r["job"]["num_frames"] == n], column, HEADLINE[0])
                ]
                if found is not None
            ]
            if points:
                x, y, error = zip(*points, strict=True)
                quality.errorbar(
                    x, y, error, label=column, color=colour, linestyle=style, marker="o", capsize=2
                )
            if times := sorted(_medians(shown, column, seconds_of).items()):
                cost.loglog(*zip(*times, strict=True), color=colour, linestyle=style, marker="o")
        quality.set_xscale("log", base=2)
        quality.set_title("mean of the world")
        quality.set_xlabel("frames")
        cost.set_title("seconds a video")
        cost.set_xlabel("frames")
        figure.legend(loc="outside right upper")
        return svg_of(figure)
