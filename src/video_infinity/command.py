"""What the commands do: check the request, start or join the ranks, write, and report."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from video_infinity.adapters import PRESETS, Adapter, ModelFacts, inspect_model, load_model
from video_infinity.adapters.registry import FAMILIES
from video_infinity.comm import Communicator
from video_infinity.comm.process import in_torchrun
from video_infinity.config import Request
from video_infinity.engine import Observer
from video_infinity.errors import ConfigError
from video_infinity.failures import is_spawned, report_interrupt
from video_infinity.launch import command_world, launch_ranks, rank_device
from video_infinity.output import FrameSink, atomic_write_bytes, partial_path, remove_partial
from video_infinity.pipeline import run_request
from video_infinity.preflight import (
    check_destinations,
    prepare,
    prompt_warnings,
    resolve_device,
    resolve_ranks,
    video_sink,
)
from video_infinity.progress import default_observer, restore_terminal, warn


def run_generate(request: Request, argv: Sequence[str]) -> None:
    """`video-infinity generate`: on this process, on ranks spawned here, or as one of torchrun's.

    argv  the command line, for the ranks that are spawned
    """
    device = resolve_device(request.model.device)
    request = replace(request, model=replace(request.model, device=device))
    facts = inspect_model(request.model)
    num_ranks = _num_ranks(request)
    request = prepare(request, facts, num_ranks)
    if not is_spawned() and (not in_torchrun() or os.environ["RANK"] == "0"):
        check_destinations(request)
        _warn(prompt_warnings(request, facts), request)
    if in_torchrun() or num_ranks == 1:
        _run_rank(request)
        return
    try:
        launch_ranks(argv, num_ranks)
    finally:
        for path in _files(request):
            remove_partial(path)


def _num_ranks(request: Request) -> int:
    asked, device = request.run.nproc_per_node, request.model.device
    if not in_torchrun():
        return resolve_ranks(asked, device, request.run.parallel)
    if asked is not None and not is_spawned():
        raise ConfigError(
            f"--nproc-per-node {asked}: torchrun has started the ranks already; give it to "
            "torchrun instead"
        )
    resolve_ranks(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), device)
    return int(os.environ["WORLD_SIZE"])


def _run_rank(request: Request) -> None:
    begin = time.perf_counter()
    model = replace(request.model, device=rank_device(request.model.device))
    claimed: list[Path] = []
    with command_world(
        torch.device(model.device), request.run.timeout_s, lambda: _abandon(claimed)
    ) as comm:
        is_main, run = comm.rank == 0, request.run
        with default_observer(is_main=is_main, quiet=run.quiet, log_json=run.log_json) as observer:
            observer("phase", name="load")
            adapter = load_model(model, reads_text=is_main)
            if is_main:
                _warn(_truncated(request, adapter), request)
            load_seconds = time.perf_counter() - begin
            report = _write(request, adapter, comm, observer, load_seconds, claimed)
            observer("done", output=report["output"], seconds=report["seconds"])
        if is_main and not run.quiet:
            _print_summary(report)


def _write(
    request: Request,
    adapter: Adapter,
    comm: Communicator,
    observer: Observer,
    load_seconds: float,
    claimed: list[Path],
) -> dict[str, Any]:
    """Generate, and on rank 0 write every file of the request. Returns the report.

    claimed  takes the files whose temp files are this process's own
    """
    sink: FrameSink | nullcontext[None] = nullcontext()
    if comm.rank == 0:
        sink = video_sink(request)
    with sink as frames:
        if frames is not None:
            claimed += _files(request)

        def write(piece: torch.Tensor) -> None:
            if frames is not None:
                frames.write(piece.numpy())

        report = run_request(request, adapter, comm, write, observer, load_seconds)
        closing = time.perf_counter()
    for phase in ("write", "total"):
        report["seconds"][phase] += time.perf_counter() - closing
    if comm.rank == 0 and request.output.report is not None:
        atomic_write_bytes(request.output.report, json.dumps(report, indent=2).encode() + b"\n")
    return report


def _files(request: Request) -> list[Path]:
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


def _warn(messages: Iterable[str], request: Request) -> None:
    for message in messages:
        warn(message, log_json=request.run.log_json)


def _print_summary(report: Mapping[str, Any]) -> None:
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["seconds"].items())
    frames, ranks = report["num_frames"], report["ranks"]
    print(f"{report['output'][0]}: {frames} frames on {ranks} rank{'s' * (ranks > 1)}")
    print(phases)


def run_plan(request: Request) -> None:
    """`video-infinity plan`: print clips, scopes, expected memory and bytes.

    A GPU that is not here may be planned for.
    """
    from video_infinity.estimate import describe_plan, estimate

    device = request.model.device
    if device == "auto":
        device = resolve_device(device)
    request = replace(request, model=replace(request.model, device=device))
    facts: ModelFacts = inspect_model(request.model)
    asked, parallel = request.run.nproc_per_node, request.run.parallel
    num_ranks = asked or resolve_ranks(None, device, parallel)
    predicted = estimate(prepare(request, facts, num_ranks), facts, num_ranks)
    print(json.dumps(predicted, indent=2) if request.run.log_json else describe_plan(predicted))


def run_models() -> None:
    """`video-infinity models`: embedded names, presets, and the denoisers that load."""
    for name, preset in PRESETS.items():
        print(f"{name:16}{preset.about}")
    print(f"{'DIR or HUB_ID':16}a diffusers model whose denoiser is {', '.join(FAMILIES)}")
