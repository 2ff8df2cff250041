"""Every program of benchmarks/ runs, at its smallest: a claim that cannot be repeated is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALLEST = {
    "attention": "--num-frames 20 --repeats 1 --step-repeats 1 --blocks 8 16",
    "growth": "--num-frames 8 --ranks 2 --steps 1 --repeats 1",
    "slices": "--num-frames 8 --repeats 1",
    "speed": "--num-frames 16 --steps 1 --repeats 2",
    "scaling.calibrate": "--num-frames 16 --repeats 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_writes_what_it_measured(name: str, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    words = [sys.executable, "-m", f"benchmarks.{name}", *SMALLEST[name].split()]
    done = subprocess.run(
        [*words, "--out", str(out)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["machine"]["cores"]
    assert done.stdout.strip()
