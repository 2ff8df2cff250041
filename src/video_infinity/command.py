"""What the commands do: check the request, start or join the ranks, write, and report."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from typer.exceptions import TyperException

from video_infinity.adapters import PRESETS, ModelFacts, inspect_model, load_model
from video_infinity.adapters.registry import FAMILIES
from video_infinity.comm import Communicator
from video_infinity.comm.process import in_torchrun
from video_infinity.config import Request, chosen, flag, read_config_file
from video_infinity.errors import ConfigError, RankFailedError, UserError, VideoInfinityError
from video_infinity.launch import (
    command_world,
    describe,
    is_spawned,
    launch_ranks,
    leave_failure,
    rank_device,
)
from video_infinity.output import atomic_write_bytes, open_sink, remove_partial
from video_infinity.pipeline import as_timeline, run_request
from video_infinity.preflight import (
    check_destinations,
    prepare,
    prompt_warnings,
    resolve_device,
    resolve_ranks,
)
from video_infinity.progress import default_observer

EXIT_FAILED, EXIT_MISTAKE = 1, 2


def read_request(options: Mapping[str, Any]) -> Request:
    """The request of a command line: flag before config file before default.

    Raises UserError for what is unknown, contradictory or out of range.
    """
    given = dict(options)
    if "timeout" in given:
        given["timeout_s"] = given.pop("timeout")
    if "nproc_per_node" in given:
        given["nproc_per_node"] = _parse_ranks(given["nproc_per_node"])
    config = given.pop("config", None)
    from_file = read_config_file(config) if config is not None else {}
    if {"prompt", "timeline"} & given.keys():
        from_file = {k: v for k, v in from_file.items() if k not in ("prompt", "timeline")}
    merged = from_file | given
    timeline = as_timeline(merged.pop("prompt", None), merged.pop("timeline", None))
    return Request.from_options(timeline, merged)


def _parse_ranks(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.strip().lstrip("-").isdigit():
        raise ConfigError(f"{flag('nproc_per_node')} {text!r} is neither a number nor auto")
    return int(text)


def run_generate(options: Mapping[str, Any], argv: Sequence[str]) -> None:
    """`video-infinity generate`: on this process, on ranks spawned here, or as one of torchrun's.

    argv  the command line, for the ranks that are spawned
    """
    request = read_request(options)
    device = resolve_device(request.model.device)
    facts = inspect_model(request.model)
    if in_torchrun():
        if request.run.nproc_per_node is not None and not is_spawned():
            raise ConfigError("--nproc-per-node has no meaning under torchrun; drop it here")
        num_ranks = int(os.environ["WORLD_SIZE"])
        is_main = os.environ["RANK"] == "0"
    else:
        num_ranks, is_main = resolve_ranks(request.run.nproc_per_node, device), True
    prepared = prepare(request, facts, num_ranks)
    if is_main and not is_spawned():
        check_destinations(prepared)
        _warn(prompt_warnings(prepared, facts))
    if in_torchrun() or num_ranks == 1:
        _run_rank(prepared, device, facts)
        return
    try:
        launch_ranks(argv, num_ranks)
    finally:
        _remove_partials(prepared)


def _run_rank(request: Request, device: str, facts: ModelFacts) -> None:
    begin = time.perf_counter()
    where = rank_device(device)
    with command_world(
        torch.device(where), request.run.timeout_s, lambda: _remove_partials(request)
    ) as comm:
        adapter = load_model(replace(request.model, device=where))
        is_main = comm.rank == 0
        if is_main:
            _warn(
                f"the text encoder reads only the first part of {prompt!r}; shorten it"
                for prompt in request.timeline.prompts
                if adapter.truncated(prompt)
            )
        load_seconds = time.perf_counter() - begin
        with default_observer(
            is_main=is_main, quiet=request.run.quiet, log_json=request.run.log_json
        ) as observer:
            report = _generate(request, adapter, comm, observer, load_seconds)
    if is_main and not request.run.quiet:
        _print_summary(report)


def _generate(
    request: Request, adapter: Any, comm: Communicator, observer: Any, load_seconds: float
) -> dict[str, Any]:
    video, output = request.video, request.output
    sink = (
        open_sink(
            output.output,
            fps=chosen(output.fps),
            width=chosen(video.width),
            height=chosen(video.height),
            overwrite=output.overwrite,
        )
        if comm.rank == 0
        else nullcontext()
    )
    with sink as frames:
        report = run_request(
            request,
            adapter,
            comm,
            lambda piece: frames.write(piece.numpy()) if frames is not None else None,
            observer,
            load_seconds,
        )
    if comm.rank == 0 and output.report is not None:
        atomic_write_bytes(output.report, json.dumps(report, indent=2).encode() + b"\n")
    return report


def _remove_partials(request: Request) -> None:
    for path in (request.output.output, request.output.save_latents, request.output.report):
        if path is not None:
            remove_partial(path)


def _warn(lines: Any) -> None:
    for line in lines:
        print(f"video-infinity: warning: {line}", file=sys.stderr)


def _print_summary(report: Mapping[str, Any]) -> None:
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["seconds"].items())
    frames, ranks = report["num_frames"], report["ranks"]
    print(f"{report['output'][0]}: {frames} frames on {ranks} rank{'s' * (ranks > 1)}")
    print(phases)


def run_plan(options: Mapping[str, Any]) -> None:
    """`video-infinity plan`: print clips, scopes, expected memory and bytes."""
    from video_infinity.estimate import describe_plan, estimate

    request = read_request(options)
    device = "cpu" if request.model.device == "auto" else request.model.device
    facts = inspect_model(request.model)
    num_ranks = request.run.nproc_per_node or resolve_ranks(None, resolve_device("auto"))
    request = prepare(
        replace(request, model=replace(request.model, device=device)), facts, num_ranks
    )
    predicted = estimate(request, facts, num_ranks)
    print(json.dumps(predicted, indent=2) if request.run.log_json else describe_plan(predicted))


def run_models() -> None:
    """`video-infinity models`: embedded names, presets, and the denoisers that load."""
    for name, preset in PRESETS.items():
        print(f"{name:16}{preset.about}")
    print(f"{'DIR or HUB_ID':16}a diffusers model whose denoiser is {', '.join(FAMILIES)}")


def report_error(error: Exception) -> int:
    """Say what went wrong, in one line where it is the user's to mend. Returns the exit code."""
    if isinstance(error, TyperException):
        message, mistake = error.format_message(), True
    else:
        message, mistake = describe(error), isinstance(error, UserError)
    if is_spawned():
        leave_failure(error)
        return EXIT_MISTAKE if mistake else EXIT_FAILED
    rank = f"rank {os.environ['RANK']}: " if in_torchrun() else ""
    if not mistake and not isinstance(error, VideoInfinityError):
        sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(error, RankFailedError) and error.traceback:
        print(error.traceback, file=sys.stderr, end="")
    print(f"video-infinity: error: {rank}{' '.join(message.split())}", file=sys.stderr)
    return EXIT_MISTAKE if mistake else EXIT_FAILED
