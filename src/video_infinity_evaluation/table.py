"""The measures of one video as a table for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from video_infinity_evaluation.scores import Measure, Scores

TITLES = {
    "vbench": "VBench's dimensions",
    "length": "over the length",
    "world": "the world's own truth",
}
LIGHT = ", not comparable"
FOOTNOTE = (
    "* a light backend: its values compare with each other, not with VBench's published ones."
)


def print_table(scores: Scores, console: Console) -> None:
    """Print every measure; those that were not taken say why."""
    console.print(
        f"{scores.video}: {scores.num_frames} frames of {scores.width}x{scores.height}, "
        f"{scores.fps:g} a second",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("measure", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("good")
    table.add_column("by", overflow="fold")
    group = ""
    for measure in scores.measures:
        if measure.group != group:
            if group:
                table.add_section()
            group = measure.group
            table.add_row(f"[bold]{TITLES[group]}[/bold]")
        table.add_row(measure.name, number(measure.value), measure.good, told(measure))
    console.print(table)
    console.print(
        f"{FOOTNOTE}\nConsistency rewards a frozen picture: read it beside dynamic_degree."
    )


def number(value: float | None) -> str:
    """Four digits, or a dash where nothing was measured."""
    return "-" if value is None else f"{value:.4g}"


def told(measure: Measure) -> str:
    """The backend and the note, in one cell."""
    return "; ".join(text for text in (measure.by.replace(LIGHT, "*"), measure.note) if text)
