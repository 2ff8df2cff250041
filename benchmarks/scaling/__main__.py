"""Prints the tables of docs/scaling.md, or writes them into it.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --page docs/scaling.md --out benchmarks/results/scaling.json

No GPU, half a minute: models are traced by shape. This machine's part needs a calibration
(`python -m benchmarks.scaling.calibrate`) and is left out without one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.scaling import here, published, subjects, tables
from benchmarks.scaling.tables import Table

CALIBRATIONS = (Path("out/bench/calibration.json"), Path("benchmarks/results/calibration.json"))
UNET_FRAMES, WAN_FRAMES = 24, 16
"""Latent frames of a rank where the clip stays."""
UNET_TOTAL, WAN_TOTAL = 9216, 1024
"""Latent frames of the video where the video stays."""


def all_tables() -> list[Table]:
    """In the order of the page."""
    unet, small = subjects.videocrafter2(), subjects.wan_small()
    sizes = (unet, small, subjects.wan_large(small))
    frames = {s.name: UNET_FRAMES if s is unet else WAN_FRAMES for s in sizes}
    totals = {s.name: UNET_TOTAL if s is unet else WAN_TOTAL for s in sizes}
    a5000 = replace(unet, device="A5000")
    return [
        *_tables_here(),
        tables.paper_costs(a5000),
        tables.paper_calls(a5000),
        tables.overlap(sizes, frames),
        tables.weak(sizes, frames),
        tables.strong(sizes, totals),
        tables.crossover(sizes),
        tables.ladder(sizes, frames),
        tables.machines(sizes, frames),
        tables.sizes(sizes, frames, published.ETHERNET, 128),
    ]


def _tables_here() -> list[Table]:
    file = next((file for file in CALIBRATIONS if file.exists()), None)
    if file is None:
        print("no calibration of this machine: its tables are left out", file=sys.stderr)
        return []
    calibration = json.loads(file.read_text())
    frames = calibration["num_frames"] // here.RANKS
    embedded = subjects.embedded(here.step_seconds(calibration) / frames)
    found = here.measured()
    if found:
        spread = found.straggling
        print(
            f"compared with {found.source}"
            + (f"; ranks' step times spread by {spread:.1%} there" if spread else ""),
            file=sys.stderr,
        )
    return [
        tables.links_here(calibration),
        tables.compute_here(calibration),
        tables.costs_here(embedded, calibration),
    ]


def filled(page: str, made: Sequence[Table]) -> str:
    """The page with each table between its marks. A table without marks is an error."""
    for table in made:
        pattern = re.compile(
            rf"(<!-- table: {re.escape(table.name)} -->\n).*?(<!-- end -->)", re.DOTALL
        )
        assert pattern.search(page), f"the page has no place for the table {table.name!r}"
        text = table.markdown()
        page = pattern.sub(lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", page)  # type: ignore[misc]
    return page


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    parser.add_argument("--out", type=Path, default=Path("out/bench/scaling.json"))
    arguments = parser.parse_args()
    made = all_tables()
    for table in made:
        print(f"{table.name}\n\n{table.markdown()}\n")
    if arguments.page:
        arguments.page.write_text(filled(arguments.page.read_text(), made))
    result = {
        "command": ["python", "-m", "benchmarks.scaling"],
        "machine": describe(),
        "straggling": published.STRAGGLING,
        "tables": {table.name: table.numbers for table in made if table.numbers},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
