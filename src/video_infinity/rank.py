"""What one rank of a command does: load, generate, and on rank 0 write every file."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from video_infinity.adapters import Adapter, load_model, model_scheduler
from video_infinity.cadence import Cadence
from video_infinity.comm import Communicator
from video_infinity.config import Request
from video_infinity.engine import Observer, check_scheduler
from video_infinity.failures import report_interrupt
from video_infinity.keeper import Keeper
from video_infinity.launch import command_world, rank_device
from video_infinity.memory import give_back_large_tensors
from video_infinity.output import FrameSink, atomic_write_bytes, partial_path
from video_infinity.pipeline import run_request
from video_infinity.preflight import (
    video_sink,
)
from video_infinity.progress import default_observer, restore_terminal, warn
from video_infinity.rundir import RunDir


def run_rank(request: Request, run_dir: RunDir) -> None:
    """Be one rank of a prepared request, from its newest checkpoint on; rank 0 writes the files."""
    run_dir.publish_rank(int(os.environ.get("RANK", "0")))
    begin = time.perf_counter()
    if request.model.device == "cpu":
        give_back_large_tensors()
    model = replace(request.model, device=rank_device(request.model.device))
    claimed: list[Path] = []
    with command_world(
        torch.device(model.device),
        request.run.timeout_s,
        lambda: _abandon(claimed),
        lambda: ask_to_stop(run_dir),
    ) as comm:
        is_main, run = comm.rank == 0, request.run
        run_dir.publish_rank(comm.rank)  # torchrun's first rank may have made it only now
        with default_observer(is_main=is_main, quiet=run.quiet, log_json=run.log_json) as shown:
            observer = _noting(shown, run_dir, request) if is_main else shown
            observer("phase", name="load")
            check_scheduler(request, model_scheduler(model))
            adapter = load_model(model, reads_text=is_main)
            if is_main:
                warn_of(_truncated(request, adapter), request)
            load_seconds = time.perf_counter() - begin
            run_id = _shared_run(comm, run_dir)
            cadence = Cadence.parse(request.run.checkpoint_every)
            keeper = Keeper(run_dir, run_id, comm, cadence, observer)
            report = _write(
                request, adapter, comm, observer, load_seconds, claimed, keeper, run_dir
            )
            observer("done", output=report["output"], seconds=report["seconds"])
        if is_main and not run.quiet:
            _print_summary(report)


def ask_to_stop(run_dir: RunDir) -> None:
    """What the first Ctrl-C does. Called from a signal's handler. Raises OSError."""
    run_dir.ask_to_stop("signal")
    os.write(2, b"video-infinity: ending after this step; once more to end now\n")


def _shared_run(comm: Communicator, run_dir: RunDir) -> str:
    """The run's id, as rank 0 reads it."""
    mine = run_dir.read_manifest()["run"] if comm.rank == 0 else None
    return str(comm.gather_json(mine)[0])


def _noting(shown: Observer, run_dir: RunDir, request: Request) -> Observer:
    """Rank 0's observer, with what it hears noted in the run directory."""

    def noting(event: str, **data: Any) -> None:
        run_dir.tell(event, **data)
        if event == "warning":
            warn_of([data["message"]], request)
        else:
            shown(event, **data)

    return noting


def _write(
    request: Request,
    adapter: Adapter,
    comm: Communicator,
    observer: Observer,
    load_seconds: float,
    claimed: list[Path],
    keeper: Keeper,
    run_dir: RunDir,
) -> dict[str, Any]:
    """Generate, and on rank 0 write every file of the request. Returns the report.

    claimed  takes the files whose temp files are this process's own
    The renaming of the video is the last act: whoever dies after it has finished.
    """
    sink: FrameSink | nullcontext[None] = nullcontext()
    if comm.rank == 0:
        sink = video_sink(request)
    with sink as frames:
        if frames is not None:
            claimed += files_of(request)

        def write(piece: torch.Tensor) -> None:
            if frames is not None:
                frames.write(piece.numpy())

        report = run_request(request, adapter, comm, write, observer, load_seconds, keeper)
        if frames is not None:
            closing = time.perf_counter()
            inode = frames.finish()
            for phase in ("write", "total"):
                report["seconds"][phase] += time.perf_counter() - closing
            _leave_report(request, run_dir, report)
            path = str(Path(report["output"][0]).absolute())
            run_dir.tell("ready", made={"path": path, "inode": inode})
    return report


def _leave_report(request: Request, run_dir: RunDir, report: Mapping[str, Any]) -> None:
    data = json.dumps(report, indent=2).encode() + b"\n"
    if request.output.report is not None:
        atomic_write_bytes(request.output.report, data)
    if request.run.run_dir is not None:
        atomic_write_bytes(run_dir.path / "report.json", data)


def files_of(request: Request) -> list[Path]:
    """The files that a request asks for."""
    output = request.output
    return [path for path in (output.output, output.save_latents, output.report) if path]


def _abandon(claimed: Iterable[Path]) -> None:
    """Leave nothing behind in a process that cannot unwind."""
    for path in claimed:
        partial = partial_path(path)
        shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
    restore_terminal()
    report_interrupt()


def _truncated(request: Request, adapter: Adapter) -> list[str]:
    prompts = dict.fromkeys((*request.timeline.prompts, request.video.negative_prompt))
    return [
        f"the text encoder reads only the first part of {prompt!r}; shorten it"
        for prompt in prompts
        if adapter.truncated(prompt)
    ]


def warn_of(messages: Iterable[str], request: Request) -> None:
    """Say, as the request has it, what is no error."""
    for message in messages:
        warn(message, log_json=request.run.log_json)


def _print_summary(report: Mapping[str, Any]) -> None:
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["seconds"].items())
    frames, ranks = report["num_frames"], report["ranks"]
    print(f"{report['output'][0]}: {frames} frames on {ranks} rank{'s' * (ranks > 1)}")
    print(phases)
