"""Draw the training logs: `python -m training.curves` writes curves.svg beside the CSV files."""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

PANELS = {  # file: (title, column)
    "autoencoder.csv": ("autoencoder: PSNR of held-out frames, dB", "psnr_db"),
    "denoiser-frames.csv": ("stage 1, single frames: loss", "loss_frames"),
    "denoiser-clips.csv": ("stage 2, clips: loss", "loss_clips"),
}
WIDTH, HEIGHT, MARGIN = 300, 160, 36


def panel(path: Path, title: str, column: str, left: int) -> str:
    """One SVG group: a column of a log over the minutes of training."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    minutes = [float(row["seconds"]) / 60 for row in rows]
    values = [float(row[column]) for row in rows]
    low, high = min(values), max(values)
    last = math.ceil(minutes[-1])
    points = " ".join(
        f"{MARGIN + minute / last * WIDTH:.1f},{HEIGHT - (value - low) / (high - low) * HEIGHT:.1f}"
        for minute, value in zip(minutes, values, strict=True)
    )
    return f"""<g transform="translate({left} 24)">
<text x="{MARGIN}" y="-8">{title}</text>
<rect x="{MARGIN}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>
<polyline points="{points}" fill="none" stroke="#1f5fbf" stroke-width="1.5"/>
<text x="{MARGIN - 4}" y="10" text-anchor="end">{high:.3g}</text>
<text x="{MARGIN - 4}" y="{HEIGHT}" text-anchor="end">{low:.3g}</text>
<text x="{MARGIN + WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{last} minutes</text>
</g>"""


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/training"))
    out = parser.parse_args().out
    step = WIDTH + 2 * MARGIN
    groups = [
        panel(out / name, title, column, i * step)
        for i, (name, (title, column)) in enumerate(PANELS.items())
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{step * len(PANELS)}" '
        f'height="{HEIGHT + 48}" font-family="sans-serif" font-size="11">'
    )
    (out / "curves.svg").write_text("\n".join([head, *groups, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
