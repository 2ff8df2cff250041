"""One page of all results: each claim with its plot, its bar, its command and its machine.

    python -m benchmarks.page --results benchmarks/results --out benchmarks/results

Reads the JSON files that lie in the folder of results and writes `page.html`, which needs nothing
else (no network, no script). A result that is not there is said to be not measured.
"""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.findings import (
    Finding,
    Read,
    Result,
    read_attention,
    read_memory,
    read_paper,
    read_rows,
    read_scaling,
    read_speed,
    read_time,
)
from benchmarks.machine import in_words


@dataclass(frozen=True)
class Section:
    """A claim. read: the finding of its file, given all results; None if nothing is in it."""

    key: str
    file: str
    title: str
    claim: str
    program: str
    read: Read


SECTIONS = (
    Section(
        *("speed", "speed", "Two ranks over one, and the cost of the exchange"),
        "Two processes generate the same video nearly twice as fast as one; what they exchange "
        "costs a small share of what the paper's program spends on it.",
        *("benchmarks.speed", read_speed),
    ),
    Section(
        *("time", "growth", "Time grows in proportion to the frames"),
        "A frame takes as long in a video of 2,304 frames as in one of 128.",
        *("benchmarks.growth", read_time),
    ),
    Section(
        *("memory", "growth", "Memory grows in proportion to the frames, and is foreseen"),
        "Peak memory per frame does not rise with the length, and `plan` predicts it.",
        *("benchmarks.growth", read_memory),
    ),
    Section(
        *("attention", "attention", "Attention over time is linear"),
        "Dual-scope attention costs in proportion to the frames; a mask over all pairs, or "
        "attention to every frame, does not.",
        *("benchmarks.attention", read_attention),
    ),
    Section(
        *("decode", "decode", "Decoding and writing"),
        "They add at most 15 % to the denoise of 2,304 frames.",
        *("benchmarks.decode", read_rows("decode")),
    ),
    Section(
        *("plan", "plan", "What `plan` foresees"),
        "Its prediction lies within 15 % of the measured peak.",
        *("benchmarks.growth", read_rows("plan")),
    ),
    Section(
        *("paper", "scaling", "The paper's table, by the model"),
        "A model with one fitted constant gives the paper's totals and not all of its parts "
        "(docs/scaling.md). A model, not a measurement.",
        *("benchmarks.scaling", read_paper),
    ),
    Section(
        *("weak", "scaling", "Weak scaling, on paper"),
        "A rank keeps its frames. Today's engine falls off because owners of global frames send "
        "them to every rank; passed on, with cfg=2 and own keys first, it would hardly fall. "
        "A model.",
        *("benchmarks.scaling", read_scaling("weak")),
    ),
    Section(
        *("strong", "scaling", "Strong scaling, on paper"),
        "The video keeps its frames, 9,216 of VideoCrafter2 and 1,024 latent ones of Wan. A model.",
        *("benchmarks.scaling", read_scaling("strong")),
    ),
)

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Video-Infinity: what was measured</title>
<style>
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1f2328; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin: 0 0 .3rem; }
section { border-top: 1px solid #d8dce0; padding: 1.4rem 0 .6rem; }
p { margin: .3rem 0 .8rem; max-width: 48rem; }
figure { margin: .6rem 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: .5rem 0 .9rem; font-size: .92rem; }
th, td { text-align: left; padding: .25rem 1.1rem .25rem 0; border-bottom: 1px solid #e6e8eb; }
td.value { font-variant-numeric: tabular-nums; font-weight: 600; }
.met { color: #1a7f37; } .missed { color: #c0392b; } .none { color: #656d76; }
code { background: #f3f4f6; padding: .12rem .35rem; border-radius: 4px; font-size: .88rem; }
footer { color: #656d76; font-size: .86rem; margin: .4rem 0 .8rem; }
nav a { margin-right: 1rem; }
</style></head><body>
<h1>Video-Infinity: what was measured</h1>
<p>Each claim with its bar, its plot, the command that repeats it and the machine that it ran on.
Written by <code>make bench-page</code> from the JSON files beside this page.</p>
"""


def load(folder: Path) -> dict[str, Result]:
    """Results by the stems of their files."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    return {name: result for name, result in found.items() if isinstance(result, dict)}


def command_of(section: Section, result: Result) -> str:
    """As one types it: some programs keep only what came after their name. Without `--out`."""
    words = [str(word) for word in result.get("command", [])]
    if "--out" in words:
        place = words.index("--out")
        words = words[:place] + words[place + 2 :]
    if words[:1] != ["python"]:
        words = ["python", "-m", section.program, *words]
    return " ".join(words)


def _words(text: str) -> str:
    """Escaped, with `code` between backquotes."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if k % 2 else part for k, part in enumerate(parts))


def _verdicts(finding: Finding) -> str:
    rows = []
    for words, value, bar, met in finding.verdicts:
        kind, said = {True: ("met", "met"), False: ("missed", "missed"), None: ("none", "")}[met]
        rows.append(
            f'<tr><td>{_words(words)}</td><td class="value">{html.escape(value)}</td>'
            f'<td>{html.escape(bar)}</td><td class="{kind}">{said}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _table(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)

    def cell(value: Any) -> str:
        return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))

    body = "".join(
        f"<tr>{''.join(f'<td>{cell(row.get(name, str()))}</td>' for name in names)}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def section_html(section: Section, results: dict[str, Result]) -> str:
    result = results.get(section.file)
    finding = section.read(results) if result is not None else None
    parts = [f'<section id="{section.key}"><h2>{_words(section.title)}</h2>']
    parts.append(f"<p>Claim: {_words(section.claim)}</p>")
    if result is None or finding is None:
        there = "nothing of it in" if result is not None else "there is no"
        parts.append(f'<p class="none">Not measured: {there} {section.file}.json.</p></section>')
        return "\n".join(parts)
    parts.append(_verdicts(finding))
    if finding.svg:
        parts.append(f"<figure>{finding.svg}</figure>")
    if finding.table:
        parts.append(_table(finding.table))
    parts.append(
        f"<footer><code>{html.escape(command_of(section, result))}</code><br>"
        f"{html.escape(in_words(result.get('machine')))}</footer></section>"
    )
    return "\n".join(parts)


def write_page(results: dict[str, Result], out: Path) -> None:
    """`page.html`, with every plot in it."""
    out.mkdir(parents=True, exist_ok=True)
    links = " ".join(f'<a href="#{s.key}">{html.escape(s.key)}</a>' for s in SECTIONS)
    sections = (section_html(section, results) for section in SECTIONS)
    parts = [HEAD, f"<nav>{links}</nav>", *sections, "</body></html>\n"]
    (out / "page.html").write_text("\n".join(parts))


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--out", type=Path, help="the folder of results, if not given")
    arguments = parser.parse_args()
    out = arguments.out or arguments.results
    results = load(arguments.results)
    write_page(results, out)
    print(f"{out / 'page.html'}: {', '.join(results) or 'no results'}")


if __name__ == "__main__":
    main()
