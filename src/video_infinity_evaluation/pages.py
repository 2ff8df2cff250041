"""Rows of a report as tables with intervals, and its videos as contact sheets."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from video_infinity_evaluation.footage import open_footage
from video_infinity_evaluation.report import Row, measure_names
from video_infinity_evaluation.scores import Group
from video_infinity_evaluation.statistics import Interval, over_prompts

TITLES: Mapping[Group, str] = {
    "world": "The world's own truth",
    "length": "Over the length",
    "vbench": "VBench's dimensions",
}
GOOD = {"high": "↑", "low": "↓", "1": "→ 1", "": ""}
GAP_PX = 2


def tables(rows: Sequence[Row]) -> str:
    """Markdown: for every length a table for every group; methods in columns, as they come.

    Headings begin at the third level.
    """
    parts = []
    for num_frames in sorted({row["job"]["num_frames"] for row in rows}):
        of_length = [row for row in rows if row["job"]["num_frames"] == num_frames]
        seeds = Counter(
            prompt
            for prompt, _ in {(row["job"]["prompt"], row["job"]["seed"]) for row in of_length}
        )
        fewest, most = min(seeds.values()), max(seeds.values())
        each = f"{most}" if fewest == most else f"{fewest} to {most}"
        parts.append(f"### {num_frames} frames\n\n{len(seeds)} prompts, seeds of each: {each}.\n")
        for group, title in TITLES.items():
            if measure_names(of_length, group):
                parts.append(f"#### {title}\n\n{_table(of_length, group)}\n")
    return "\n".join(parts)


def _table(rows: Sequence[Row], group: Group) -> str:
    methods = list(dict.fromkeys(row["job"]["method"] for row in rows))
    lines = [
        f"| measure | good | {' | '.join(methods)} |",
        f"| --- | --- | {' | '.join('---' for _ in methods)} |",
    ]
    light = False
    for name in measure_names(rows, group):
        told = next(row["measures"][name] for row in rows if name in row["measures"])
        star = "*" if "not comparable" in told.get("by", "") else ""
        light |= bool(star)
        cells = [cell(summary(rows, method, name)) for method in methods]
        lines.append(f"| {name}{star} | {GOOD[told.get('good', '')]} | {' | '.join(cells)} |")
    if light:
        lines.append("\n\\* a light backend: columns compare with each other, not with VBench.")
    return "\n".join(lines)


def cell(found: Interval | None) -> str:
    """A mean with its interval and its count; nothing for none."""
    return "" if found is None else f"{found} ({found.count})"


def summary(rows: Sequence[Row], method: str, name: str) -> Interval | None:
    """Mean and interval over prompts of one method's measure; None without any value."""
    values = values_of(rows, method, name)
    return over_prompts(values) if values else None


def values_of(rows: Sequence[Row], method: str, name: str) -> dict[tuple[str, int], float]:
    """One method's measure by (prompt, seed), of rows of one length."""
    return {
        (row["job"]["prompt"], row["job"]["seed"]): float(row["measures"][name]["value"])
        for row in rows
        if row["job"]["method"] == method and row["measures"].get(name, {}).get("value") is not None
    }


def contact_sheet(videos: Sequence[Path], columns: int, height_px: int = 64) -> bytes:
    """A PNG with one video a row: `columns` frames from the first to the last, evenly.

    Two readings of each video: one to count, one to pick.
    """
    strips = []
    for video in videos:
        count = sum(1 for _ in open_footage(video))
        wanted = np.linspace(0, count - 1, min(columns, count)).round().astype(int)
        tiles = []
        for index, frame in enumerate(open_footage(video)):
            for _ in range(int((wanted == index).sum())):
                width_px = max(1, round(frame.shape[1] * height_px / frame.shape[0]))
                tiles.append(Image.fromarray(frame).resize((width_px, height_px)))
        strips.append(tiles)
    width = max(sum(tile.width + GAP_PX for tile in tiles) for tiles in strips)
    sheet = Image.new("RGB", (width, len(strips) * (height_px + GAP_PX)), "white")
    for row, tiles in enumerate(strips):
        left = 0
        for tile in tiles:
            sheet.paste(tile, (left, row * (height_px + GAP_PX)))
            left += tile.width + GAP_PX
    data = io.BytesIO()
    sheet.save(data, format="PNG", optimize=True)
    return data.getvalue()
