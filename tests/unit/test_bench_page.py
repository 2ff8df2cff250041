"""The page of benchmarks: what it shows of results that are there, and of those that are not."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import describe, in_words
from benchmarks.page import SECTIONS, load, write_page

REPOSITORY = Path(__file__).parents[2]
SPEED = {
    "command": ["--num-frames", "256", "--out", "/somewhere/speed.json"],
    "machine": {"cpu": "a <CPU>", "cores": 2, "memory_gib": 24, "date": "2026-01-01"},
    "speed_up": {"median": 1.88},
    "speed_up_independent": {"median": 2.0},
    "speed_up_of_independent": {"median": 0.94},
    "over_independent": {
        name: {"median": ratio}
        for name, ratio in (("conv", 1.02), ("norm", 1.03), ("attention", 1.03), ("full", 1.06))
    },
}
GROWTH = {
    "rows": [
        {
            "num_frames": frames,
            "ranks": ranks,
            "seconds_per_frame_and_step": 0.02 / ranks,
            "peak_bytes": 3e6 * frames / ranks,
            "predicted_bytes": 3.6e6 * frames / ranks,
        }
        for frames in (128, 256, 2304)
        for ranks in (1, 2)
    ]
}
ATTENTION = {
    "rows": [
        {
            "num_frames": frames,
            "seconds": {"dual scope": 1e-3 * frames, "full": 1e-6 * frames**2},
            "step_seconds": {"dual scope": 1e-2 * frames, "full": 1e-5 * frames**2},
        }
        for frames in (64, 1024, 2304)
    ]
}
DECODE = {"rows": [{"num_frames": 2304, "decode_share": 0.09}]}
ALL = {"speed": SPEED, "growth": GROWTH, "attention": ATTENTION, "decode": DECODE}


def page_of(results: dict[str, Any], folder: Path) -> str:
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    write_page(load(folder), folder)
    return (folder / "page.html").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The page of all made-up results, and its folder."""
    folder = tmp_path_factory.mktemp("results")
    return page_of(ALL, folder), folder


def section(page: str, key: str) -> str:
    return page.split(f'<section id="{key}">')[1].split("</section>")[0]


def test_without_results_every_section_says_so(tmp_path: Path) -> None:
    page = page_of({}, tmp_path)
    assert page.count("Not measured") == len(SECTIONS)
    assert "<svg" not in page


def test_a_bar_is_said_to_be_met_or_missed(whole: tuple[str, Path], tmp_path: Path) -> None:
    page, _ = whole
    text = section(page, "speed")
    assert "1.88" in text and ">met<" in text and ">missed<" not in text
    costs = {**SPEED["over_independent"], "full": {"median": 1.167}}  # type: ignore[dict-item]
    slower = SPEED | {"over_independent": costs, "speed_up": {"median": 1.7}}
    text = section(page_of({"speed": slower}, tmp_path), "speed")
    assert "16.7%" in text and ">missed<" in text and ">met<" not in text
    memory = section(page, "memory")
    assert "+20.0%" in memory and ">missed<" in memory


def test_each_claim_has_its_plot_its_command_and_its_machine(whole: tuple[str, Path]) -> None:
    page, folder = whole
    assert {file.name for file in folder.glob("*.*") if file.suffix != ".json"} == {"page.html"}
    for key in ("speed", "time", "memory", "attention"):
        assert "<svg" in section(page, key)
    text = section(page, "speed")
    assert "python -m benchmarks.speed --num-frames 256<" in text, "where it wrote is not told"
    assert "a &lt;CPU&gt;, 2 cores" in text
    assert "0.09" in section(page, "decode")
    assert "one layer, 1,024 frames" in section(page, "attention")
    assert "step, 2,304 frames" in section(page, "attention")


def test_the_page_needs_nothing_else(whole: tuple[str, Path]) -> None:
    page, _ = whole
    for word in ("<script", "<link", "<img", 'href="http', "@import", "src="):
        assert word not in page


def test_the_same_results_draw_the_same_page(whole: tuple[str, Path], tmp_path: Path) -> None:
    assert page_of(ALL, tmp_path) == whole[0]


def test_the_committed_results_are_drawn(tmp_path: Path) -> None:
    write_page(load(REPOSITORY / "benchmarks" / "results"), tmp_path)
    page = (tmp_path / "page.html").read_text()
    for key in ("paper", "weak", "strong"):
        assert "<svg" in section(page, key)


def test_the_machine_is_told_without_names_or_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "a-host-name")
    told = json.dumps(describe())
    assert "a-host-name" not in told and str(REPOSITORY) not in told
    assert in_words(None) == "machine not recorded"
