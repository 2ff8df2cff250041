"""Do time and memory grow in proportion to the frames, up to 2,304? Does `plan` foresee the memory?

Runs the command itself, several times over in turn, and reads its reports:

    python -m benchmarks.growth --num-frames 128 256 2304 --ranks 1 2 --steps 4 --repeats 3
    python -m benchmarks.growth --num-frames 2304 --ranks 2 --steps 0 --repeats 1

The second is a whole video, with the model's own number of steps: what decode and writer add to
the denoise means most there. The .mp4 is decoded again and its frames are counted. Per row: the
median over repeats and steps of seconds per frame and step, the peak memory per frame above the
model, and what `plan` predicted. Writes JSON and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av

from benchmarks.machine import describe

PROMPT = "a red seven moving left on a navy background"
PASS_BY_PASS = ("--front-frames", "0")
"""A step is one pass in which all frames do the same."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def command(*words: str) -> str:
    """The output of `video-infinity` with these words."""
    program = [sys.executable, "-m", "video_infinity", *words]
    environment = os.environ | ONE_THREAD
    return subprocess.run(
        program, check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout


def generate(num_frames: int, ranks: int, steps: int, *more: str) -> dict[str, Any]:
    """The report of one run."""
    with tempfile.TemporaryDirectory() as scratch:
        report, output = Path(scratch, "report.json"), Path(scratch, "video.mp4")
        command(
            *("generate", PROMPT, "--quiet", "--num-frames", str(num_frames)),
            *("--nproc-per-node", str(ranks), *PASS_BY_PASS),
            *(("--num-inference-steps", str(steps)) if steps else ()),
            *("--report", str(report), "--output", str(output), *more),
        )
        found: dict[str, Any] = json.loads(report.read_text())
        found["video_bytes"] = output.stat().st_size
        with av.open(output) as video:
            found["video_frames"] = sum(1 for _ in video.decode(video=0))
        return found


def tail_share(report: dict[str, Any]) -> float:
    """What the decode and the writer add to the denoise."""
    seconds: dict[str, float] = report["seconds"]
    return (seconds["decode"] + seconds["write"]) / seconds["denoise"]


def predict(num_frames: int, ranks: int) -> list[int]:
    """The memory of each rank that `plan` expects."""
    words = ("--num-frames", str(num_frames), "--nproc-per-node", str(ranks), "--log-json")
    predicted = json.loads(command("plan", PROMPT, *words, *PASS_BY_PASS))
    memory: list[int] = predicted["expected_memory_bytes"]
    return memory


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[128, 256, 2304])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=4, help="0: the model's own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/bench/growth.json"))
    arguments = parser.parse_args()
    cases = [(frames, ranks) for frames in arguments.num_frames for ranks in arguments.ranks]
    reports: dict[tuple[int, int], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(arguments.repeats):
        for case in cases:
            reports[case].append(generate(*case, arguments.steps))
    rows = []
    for (frames, ranks), found in reports.items():
        per_step = [s / frames for report in found for s in report["seconds_per_step"]]
        peaks = [max(report["peak_memory_bytes"]) for report in found]
        rows.append(
            {
                "num_frames": frames,
                "ranks": ranks,
                "seconds_per_frame_and_step": statistics.median(per_step),
                "peak_bytes": statistics.median(peaks),
                "predicted_bytes": max(predict(frames, ranks)),
                "video_frames": sorted({report["video_frames"] for report in found}),
                "video_bytes": statistics.median(report["video_bytes"] for report in found),
                "seconds": [report["seconds"] for report in found],
                "tail_share": statistics.median(map(tail_share, found)),
            }
        )
        row = rows[-1]
        print(
            f"{frames:6} frames {ranks} ranks  "
            f"{1e3 * row['seconds_per_frame_and_step']:7.2f} ms a frame and step  "
            f"{row['peak_bytes'] * ranks / frames / 1e6:6.3f} MB a frame  "
            f"peak {row['peak_bytes'] / 1e6:7.1f} MB, planned {row['predicted_bytes'] / 1e6:7.1f}  "
            f"decode and write {row['tail_share']:.1%} of the denoise",
            flush=True,
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"command": sys.argv[1:], "machine": describe(), "rows": rows}, indent=2)
    )


if __name__ == "__main__":
    main()
