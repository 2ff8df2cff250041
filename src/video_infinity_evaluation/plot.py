"""The measures of one video over its frames, as a picture."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from video_infinity_evaluation.scores import Scores

SUFFIXES = (".png", ".svg")
BLUE, RED = "#0072b2", "#c0392b"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "lines.linewidth": 1.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "video-infinity",
}
PANEL_INCHES = (9.6, 1.15)


def draw(scores: Scores, suffix: str) -> bytes:
    """One panel for each series, frames from left to right, borders of clips as dashed lines.

    suffix  of SUFFIXES. Returns the file's bytes; the same scores give the same ones.
    """
    panels = list(scores.series.items())
    width, height = PANEL_INCHES
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (name, values) in zip(axes, panels, strict=True):
            first = scores.num_frames - len(values)  # a pair is drawn at its second frame
            ax.plot(range(first, scores.num_frames), values, color=BLUE)
            ax.set_title(name)
            ax.margins(x=0.005)
            if name.endswith(" right"):
                ax.set_ylim(-0.08, 1.08)
            else:
                ax.set_ylim(bottom=min(0.0, *values))
            for border in scores.borders:
                ax.axvline(border, color=RED, linestyle="--", linewidth=0.7)
        axes[-1].set_xlabel(
            "frame" + (", clips begin at the dashed lines" if scores.borders else "")
        )
        data = io.BytesIO()
        metadata = {"Date": None} if suffix == ".svg" else {}
        figure.savefig(data, format=suffix.removeprefix("."), dpi=110, metadata=metadata)
    return data.getvalue()
