"""What do checkpoints cost? The time inside of them over the time of the denoise, in one run.

One rank denoises with the embedded model; for every interval, all that a step waits for because
the run is kept (whether to stop, whether one is due, writing, syncing) is timed where it happens.

    python -m benchmarks.checkpoints --num-frames 128 --steps 30 --every auto 5 1

Prints a table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from video_infinity.adapters import load_model
from video_infinity.cadence import Cadence
from video_infinity.comm import SingleCommunicator
from video_infinity.config import ModelSpec, Request
from video_infinity.engine import ClipRun
from video_infinity.keeper import Keeper
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent
from video_infinity.rundir import RunDir
from video_infinity.timeline import PromptTimeline

PROMPT = "a red seven moving left on a navy background"


class TimedKeeper(Keeper):
    """Adds up what the steps wait for it."""

    waited_s = 0.0

    def after_step(self, *given: Any) -> None:
        begin = time.perf_counter()
        super().after_step(*given)
        self.waited_s += time.perf_counter() - begin


def measure(adapter: Any, request: Request, every: str, directory: Path) -> list[str]:
    comm, run_dir = SingleCommunicator(), RunDir(directory / "v.run")
    run = run_dir.create({}, overwrite=False)
    keeper = TimedKeeper(run_dir, run, comm, Cadence.parse(every), silent)
    plan = make_plan(request, adapter.facts, comm.size)
    made = ClipRun(request, adapter, comm, plan, silent, keeper)
    made.denoise()
    denoise_s = made.measures.seconds["denoise"]
    size = sum(file.stat().st_size for file in run_dir.checkpoints.rglob("*.safetensors"))
    return [
        every,
        f"{denoise_s:.2f}",
        str(keeper.num_saved),
        f"{keeper.waited_s:.3f}",
        f"{100 * keeper.waited_s / denoise_s:.2f} %",
        f"{size / 2e6:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-frames", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", nargs="+", default=["auto", "5", "1"])
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--directory", type=Path, help="on the disk to measure; temporary if absent"
    )
    given = parser.parse_args()
    adapter = load_model(ModelSpec(given.model, device="cpu"))
    request = Request.from_options(
        PromptTimeline.single(PROMPT),
        {
            "num_frames": given.num_frames,
            "num_inference_steps": given.steps,
            "front_frames": 0,
        },
    )
    request = prepare(request, adapter.facts, 1)
    print("| interval | denoise, s | made | spent on them, s | share | MB each |")
    print("| --- | --- | --- | --- | --- | --- |")
    for every in given.every:
        with tempfile.TemporaryDirectory(dir=given.directory) as place:
            print("|", " | ".join(measure(adapter, request, every, Path(place))), "|", flush=True)


if __name__ == "__main__":
    main()
