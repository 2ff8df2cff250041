"""What a file of results says: verdicts against the bars, a plot, or a table. For page.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import plots
from benchmarks.scaling import published

Result = dict[str, Any]
Read = Callable[[dict[str, Result]], "Finding | None"]


@dataclass(frozen=True)
class Finding:
    """What a result says. verdicts: (words, value, bar, whether it is met or None)."""

    verdicts: Sequence[tuple[str, str, str, bool | None]]
    svg: str | None = None
    table: Sequence[dict[str, Any]] = ()


def read_speed(results: dict[str, Result]) -> Finding | None:
    if "over_independent" not in results["speed"]:
        return None
    rows = results.get("scaling", {}).get("tables", {}).get("costs here", [])
    predicted = {row["part"]: row["predicted"] for row in rows}
    told = results["speed"]
    up = told["speed_up"]["median"]
    share = told["speed_up_of_independent"]["median"]
    costs = {name: found["median"] - 1 for name, found in told["over_independent"].items()}
    met = up >= 1.85 or share >= 0.95
    bar = "at least 1.85, or 0.95 of what independent clips reach"
    return Finding(
        [
            ("speed-up of two ranks over one", f"{up:.2f}, {share:.3f} of it", bar, met),
            (
                "cost of the full exchange",
                f"{costs['full']:.1%}",
                "at most 8 % (the paper: 25 %)",
                costs["full"] <= 0.08,
            ),
        ],
        plots.speed(
            (up, told["speed_up_independent"]["median"]),
            costs,
            published.PAPER_COST[2],
            predicted,
        ),
    )


def _growth_rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    rows = [*results["growth"].get("rows", []), *results.get("long", {}).get("rows", [])]
    last = {(row["num_frames"], row["ranks"]): row for row in rows}
    return list(last.values())


def _ratios(
    rows: Sequence[dict[str, Any]], first: int, value: Callable[[dict[str, Any]], float], bar: float
) -> list[tuple[str, str, str, bool | None]]:
    """The longest video over that of `first` frames, for each number of ranks."""
    found: list[tuple[str, str, str, bool | None]] = []
    for ranks in sorted({row["ranks"] for row in rows}):
        by_frames = {row["num_frames"]: value(row) for row in rows if row["ranks"] == ranks}
        longest = max(by_frames)
        if first not in by_frames or longest == first:
            continue
        ratio = by_frames[longest] / by_frames[first]
        words = f"{longest:,} frames over {first}, {ranks} rank{'s' * (ranks > 1)}"
        met = ratio <= bar if longest >= 2304 else None
        found.append((words, f"{ratio:.2f}", f"at most {bar:.2f} at 2,304", met))
    return found


def read_time(results: dict[str, Result]) -> Finding | None:
    rows = _growth_rows(results)
    if not rows:
        return None
    verdicts = _ratios(rows, 128, lambda row: float(row["seconds_per_frame_and_step"]), 1.10)
    return Finding(verdicts, plots.time_per_frame(rows))


def read_memory(results: dict[str, Result]) -> Finding | None:
    rows = [row for row in _growth_rows(results) if "peak_bytes" in row]
    if not rows:
        return None
    verdicts = _ratios(rows, 256, lambda row: row["peak_bytes"] / row["num_frames"], 1.05)
    errors = [row["predicted_bytes"] / row["peak_bytes"] - 1 for row in rows]
    worst = max(errors, key=abs)
    met = abs(worst) <= 0.15
    verdicts.append(("`plan` against the peak, worst row", f"{worst:+.1%}", "within 15 %", met))
    return Finding(verdicts, plots.memory_per_frame(rows))


ATTENTION_PANELS = {"seconds": "one layer", "layer": "one layer"}


def read_attention(results: dict[str, Result]) -> Finding | None:
    """Every mapping of ways to seconds in a row is a panel: the layer alone, the whole step."""
    panels: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for row in results["attention"].get("rows", []):
        for key, seconds in row.items():
            if isinstance(seconds, dict) and "dual scope" in seconds:
                title = ATTENTION_PANELS.get(key, key.removesuffix("_seconds").replace("_", " "))
                panels.setdefault(title, []).append((row["num_frames"], seconds))
    if not panels:
        return None
    verdicts: list[tuple[str, str, str, bool | None]] = []
    for title, rows in panels.items():
        for length, seconds in rows:
            if length in (1024, 2304):
                others = [name for name in seconds if name != "dual scope"]
                said = ", ".join(
                    f"{name} {seconds[name] / seconds['dual scope']:.2f}" for name in others
                )
                verdicts.append((f"{title}, {length:,} frames: over dual scope", said, "", None))
    return Finding(verdicts, plots.attention(panels))


def read_paper(results: dict[str, Result]) -> Finding | None:
    rows = results["scaling"].get("tables", {}).get("paper", [])
    return Finding([], plots.paper_table(rows)) if rows else None


def read_scaling(table: str) -> Read:
    def read(results: dict[str, Result]) -> Finding | None:
        rows = results["scaling"].get("tables", {}).get(table, [])
        return Finding([], plots.scaling(rows, f"efficiency, {table} scaling")) if rows else None

    return read


def read_rows(name: str) -> Read:
    """A result that has a table and no plot: its rows, or its own plain values."""

    def read(results: dict[str, Result]) -> Finding | None:
        result = results[name]
        rows = result.get("rows") or [
            {key: value for key, value in result.items() if key not in ("command", "machine")}
        ]
        plain = [{k: v for k, v in row.items() if not isinstance(v, dict | list)} for row in rows]
        kept = [row for row in plain if row]
        return Finding([], table=kept) if kept else None

    return read
