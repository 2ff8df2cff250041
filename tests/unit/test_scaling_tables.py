"""What the model of scaling says of the paper's program and of this machine, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scaling import here, paper, published
from benchmarks.scaling.__main__ import filled
from benchmarks.scaling.model import Link, Subject, Work
from benchmarks.scaling.tables import Table
from video_infinity.adapters.footprint import Footprint
from video_infinity.plan import Scopes

UNET = Subject(
    "of VideoCrafter2's numbers of layers",
    "A5000",
    frame_s=0.2,
    scopes=Scopes(8, 16),
    footprint=Footprint(34_000_000, 30_000_000, 6720, 0, 0),
    work=Work(total=100.0, conv=13.0, queries=2.0, local=0.1),
    latent_values=10240,
    attention=34,
    conv=88,
    norm=17,
)
LINK = Link("PCIe", 40e-6, 20e9)


@pytest.mark.parametrize(("ranks", "calls"), [(2, (22, 210, 136)), (8, (44, 210, 204))])
def test_the_papers_program_makes_so_many_calls(ranks: int, calls: tuple[int, ...]) -> None:
    found = tuple(paper.theirs(UNET, part, ranks, LINK).calls for part in paper.PARTS)
    assert found == calls


def test_the_cell_that_was_fitted_is_met_and_no_other_by_construction() -> None:
    row, ranks = paper.FIT
    call_s = paper.call_seconds(UNET, LINK, row, ranks)
    shares = {n: paper.shares(UNET, n, LINK, call_s) for n in (2, 8)}
    assert shares[ranks][row] == pytest.approx(published.PAPER_COST[ranks][row])
    for part in ("conv", "attention"):
        assert shares[ranks][part] != pytest.approx(published.PAPER_COST[ranks][part], rel=0.01)


def test_this_engine_computes_fewer_halo_frames_again() -> None:
    """Without a price for calls and bytes, what is left of a convolution is the recomputed part."""
    free = Link("free", 0.0, float("inf"))
    ours = paper.ours(UNET, 8, free, call_s=0.0)["conv"]
    theirs = paper.theirs(UNET, "conv", 8, free).compute_s / paper.plain_seconds(8)
    assert ours == pytest.approx(0.13 * 2 / 24)
    assert theirs == pytest.approx(0.13 * 8 / 24)


def calibration(late_s: float) -> dict[str, Any]:
    """Two ranks of which the second is late at its one norm, and back in time at the end."""
    steps = [{"events": [["norm", 1.0 + late]], "seconds": 2.0} for late in (0.0, late_s)]
    return {
        "num_frames": 256,
        "ranks": [
            {
                "post": [[size, 1e-4 + size / 1e9] for size in (64, 4096, 2**20)],
                "gather": [[size, 2e-4 + size / 1e9] for size in (64, 4096)],
                "cat_seconds_per_byte": 1e-10,
                "steps": [step, step],
            }
            for step in steps
        ],
    }


def test_waiting_enters_the_prediction_where_ranks_meet_late() -> None:
    on_time, late = (here.predicted(UNET, calibration(late_s)) for late_s in (0.0, 0.3))
    assert on_time["norm"].waiting == 0
    assert late["norm"].waiting == late["full"].waiting == pytest.approx(0.3)
    assert late["conv"].waiting == 0
    assert late["norm"].wire == pytest.approx(
        105 * 2e-4 + UNET.footprint.moment_values * 2 * 4 / 1e9
    )


def test_what_was_measured_is_read_from_the_newest_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, committed = tmp_path / "new.json", tmp_path / "speed.json"
    monkeypatch.setattr(here, "SPEED", (newest, committed))
    assert here.measured() is None
    costs = {
        name: {"median": 1.08} for name in ("independent", "conv", "norm", "attention", "full")
    }
    committed.write_text(json.dumps({"over_independent": costs}))
    found = here.measured()
    assert found is not None and found.straggling is None
    assert found.shares["full"] == pytest.approx(0.08)
    newest.write_text(json.dumps({"over_independent": costs | {"full": {"median": 1.25}}}))
    found = here.measured()
    assert found is not None and found.shares["full"] == pytest.approx(0.25)


def test_a_table_is_written_between_its_marks_alone() -> None:
    page = "before\n<!-- table: one -->\nold\n<!-- end -->\nafter\n"
    table = Table("one", ("a", "b"), [["1", "2"]])
    new = filled(page, [table])
    assert "| 1 | 2 |" in new and "old" not in new
    assert new.startswith("before\n") and new.endswith("<!-- end -->\nafter\n")
    assert filled(new, [table]) == new
    with pytest.raises(AssertionError, match="no place"):
        filled("a page without marks", [table])
