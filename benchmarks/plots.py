"""Plots of the results, as SVG text: data in, drawing out. What they say is in page.py."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#c0392b", "#9aa0a6"
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    "svg.hashsalt": "video-infinity",
}
PARTS = ("conv", "norm", "attention", "full")


@contextmanager
def figure_of(
    columns: int, width: float = 9.6, height: float = 3.4, rows: int = 1
) -> Iterator[Any]:
    """A figure and its axes [rows, columns] in the style of the pages; width, height in inches."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
        )
        yield figure, axes
        pyplot.close(figure)


def svg_of(figure: Figure) -> str:
    """The same text for the same data: no date, no random names."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _bar_line(ax: Axes, value: float, words: str, colour: str = RED) -> None:
    """The bar that a value is held against, named to the right of the axes."""
    ax.axhline(value, color=colour, linestyle="--", linewidth=1.3)
    ax.annotate(
        words,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=9,
    )


def _grouped_bars(
    ax: Axes, groups: Sequence[str], bars: dict[str, Sequence[float | None]], percent: bool
) -> None:
    """Bars side by side, each with its value on top; None leaves a gap."""
    width = 0.82 / len(bars)
    for k, (words, values) in enumerate(bars.items()):
        there = [(g, v) for g, v in enumerate(values) if v is not None]
        drawn = ax.bar(
            [g + (k - (len(bars) - 1) / 2) * width for g, _ in there],
            [v for _, v in there],
            width * 0.92,
            label=words,
            color=GREY if words.startswith("the paper") else COLOURS[k],
        )
        labels = [f"{100 * v:.1f}" if percent else f"{v:.2f}" for _, v in there]
        ax.bar_label(drawn, labels, padding=1, fontsize=8)
    ax.set_xticks(range(len(groups)), groups)
    ax.grid(axis="x", visible=False)
    if percent:
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def speed(
    ups: tuple[float, float],
    costs: dict[str, float],
    paper: dict[str, float],
    predicted: dict[str, float],
) -> str:
    """Speed-up (with the exchange, and without), and cost of each part over independent clips."""
    with figure_of(2) as (figure, ((left, right),)):
        drawn = left.bar(("all exchanged", "independent"), ups, 0.55, color=(BLUE, GREY))
        left.bar_label(drawn, [f"{value:.2f}" for value in ups], padding=2)
        _bar_line(left, 1.85, "bar 1.85")
        left.set_title("speed-up of two ranks over one")
        left.grid(axis="x", visible=False)
        left.set_ylim(0, max(*ups, 1.85) * 1.15)
        left.margins(x=0.25)
        bars: dict[str, Sequence[float | None]] = {"measured": [costs.get(part) for part in PARTS]}
        if predicted:
            bars["predicted by the model"] = [predicted.get(part) for part in PARTS]
        bars["the paper, 2 GPUs"] = [paper.get(part) for part in PARTS]
        _grouped_bars(right, PARTS, bars, percent=True)
        _bar_line(right, 0.08, "bar 8 %")
        right.set_title("cost over independent clips")
        right.legend(loc="upper left")
        figure.get_layout_engine().set(w_pad=0.15)
        return svg_of(figure)


def _frames_axis(ax: Axes, frames: Sequence[int], words: str = "frames") -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(frames)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(words)


def _by_ranks(rows: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["num_frames"]):
        found.setdefault(row["ranks"], []).append(row)
    return found


def _ranks(number: int) -> str:
    return "1 rank" if number == 1 else f"{number} ranks"


def time_per_frame(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds per frame and step, with the bar over the shortest video of each row."""
    with figure_of(1, width=6.4) as (figure, ((ax,),)):
        for colour, (ranks, series) in zip(COLOURS, _by_ranks(rows).items(), strict=False):
            frames = [row["num_frames"] for row in series]
            values = [1e3 * row["seconds_per_frame_and_step"] for row in series]
            ax.plot(frames, values, "o-", color=colour, label=_ranks(ranks))
            _bar_line(ax, 1.1 * values[0], f"bar {1.1 * values[0]:.1f}", colour)
        _frames_axis(ax, [row["num_frames"] for row in rows])
        ax.set_ylim(0)
        ax.set_ylabel("ms a frame and step")
        ax.set_title("time per frame")
        ax.legend(loc="lower left")
        return svg_of(figure)


def memory_per_frame(rows: Sequence[dict[str, Any]]) -> str:
    """Megabytes of a rank per frame that it holds, measured and planned."""
    with figure_of(1, width=6.4) as (figure, ((ax,),)):
        for colour, (ranks, series) in zip(COLOURS, _by_ranks(rows).items(), strict=False):
            frames = [row["num_frames"] for row in series]
            for key, style, words in (
                ("peak_bytes", "o-", "measured"),
                ("predicted_bytes", "x--", "planned"),
            ):
                values = [row[key] * ranks / row["num_frames"] / 1e6 for row in series]
                ax.plot(frames, values, style, color=colour, label=f"{_ranks(ranks)}, {words}")
        _frames_axis(ax, [row["num_frames"] for row in rows])
        ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
        ax.set_ylabel("MB a frame")
        ax.set_title("peak memory above the model, per frame held")
        ax.legend(loc="lower left", ncols=2)
        return svg_of(figure)


def attention(panels: dict[str, list[tuple[int, dict[str, float]]]]) -> str:
    """Seconds over frames, both logarithmic; one panel for the layer, one for the whole step."""
    with figure_of(len(panels), width=4.8 * len(panels) + 0.4, height=3.8) as (figure, (axes,)):
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            frames = [length for length, _ in rows]
            names = list(dict.fromkeys(name for _, seconds in rows for name in seconds))
            for colour, marker, name in zip(COLOURS, "os^Dv", names, strict=False):
                points = [(length, s[name]) for length, s in rows if name in s]
                ax.plot(*zip(*points, strict=True), f"{marker}-", color=colour, label=name)
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            _frames_axis(ax, frames)
            ax.set_title(title)
            ax.legend()
        return svg_of(figure)


def paper_table(rows: Sequence[dict[str, Any]]) -> str:
    """The paper's cost of synchronisation, its scheme by the model, and this engine there."""
    told = {
        "the paper": "the paper",
        "its scheme by the model": "its scheme, by the model",
        "this engine by the model": "this engine, by the model",
    }
    with figure_of(2) as (figure, (axes,)):
        for ax, ranks in zip(axes, (2, 8), strict=True):
            bars: dict[str, Sequence[float | None]] = {
                told[row["who"]]: [row[part] for part in PARTS]
                for row in rows
                if row["ranks"] == ranks and row["who"] in told
            }
            _grouped_bars(ax, PARTS, bars, percent=True)
            ax.set_title(f"{ranks} GPUs")
            ax.set_ylim(0, 0.33)
        axes[0].legend(loc="upper left")
        axes[0].set_ylabel("over no exchange")
        return svg_of(figure)


def scaling(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Efficiency over ranks: a panel for each model, a colour for each link."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    links = list(dict.fromkeys(row["link"] for row in rows))
    styles = {"today": "-", "proposed": "--"}
    with figure_of(len(models), height=3.6) as (figure, (axes,)):
        for ax, model in zip(axes, models, strict=True):
            for row in rows:
                if row["model"] != model or row["layout"] not in styles:
                    continue
                colour = COLOURS[links.index(row["link"])]
                style = styles[row["layout"]]
                words = row["link"] if style == "-" else None
                ax.plot(row["ranks"], row["efficiency"], style, color=colour, label=words)
            _frames_axis(ax, [n for n in row["ranks"] if n != 512], "ranks")  # room for 1,024
            ax.set_ylim(0, 1)
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            _bar_line(ax, 0.8, "80 %")
            ax.set_title(model)
        handles, words = axes[0].get_legend_handles_labels()
        (today,) = axes[0].plot([], [], "-", color="#444444")
        (proposed,) = axes[0].plot([], [], "--", color="#444444")
        figure.legend(
            [*handles, today, proposed],
            [*words, "today", "proposed"],
            loc="outside lower center",
            ncols=len(links) + 2,
        )
        axes[0].set_ylabel(title)
        return svg_of(figure)
