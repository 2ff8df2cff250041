"""`video-infinity resume`: go on with a run that was begun before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from video_infinity.adapters import inspect_model
from video_infinity.comm.process import in_torchrun
from video_infinity.command import carry_out, find_ranks, leads
from video_infinity.manifest import check_manifest
from video_infinity.preflight import check_destinations, prepare, resolve_device
from video_infinity.progress import warn
from video_infinity.recovery import check_same, request_of, version_warnings
from video_infinity.rundir import RunDir

MESH = {"nproc_per_node", "parallel"}


def as_before(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The ranks that the run began with, and their mesh, as options.

    Where torchrun has started another number of ranks, they are all along the clips.
    """
    ranks = manifest["layout"]["ranks"]
    parallel = manifest["request"]["settings"].get("parallel")
    if not in_torchrun():
        return {"nproc_per_node": ranks, "parallel": parallel}
    return {"parallel": parallel} if os.environ["WORLD_SIZE"] == str(ranks) else {}


def run_resume(path: Path, options: Mapping[str, Any], argv: Sequence[str]) -> None:
    """`video-infinity resume`: go on from the newest whole checkpoint, else from the noise.

    options  by their fields' names; without a number of ranks it is the one of before
    Raises ResumeError if the directory is none, is in use, or if what the video depends on has
    changed.
    """
    run_dir = RunDir(path)
    manifest = run_dir.read_manifest()
    check_manifest(manifest)
    if not MESH & options.keys():
        options = as_before(manifest) | dict(options)
    request = request_of(manifest, options)
    device = resolve_device(request.model.device)
    request = replace(
        request,
        model=replace(request.model, device=device),
        run=replace(request.run, run_dir=path if manifest.get("kept") else None),
    )
    facts = inspect_model(request.model)
    num_ranks = find_ranks(request)
    request = prepare(request, facts, num_ranks)
    if leads():
        if run_dir.is_finished():
            print(f"{request.output.output}: this run is finished")
            return
        check_same(manifest, request)
        check_destinations(request)
        run_dir.lead()
        run_dir.begin_attempt()
        for line in version_warnings(manifest):
            warn(line, log_json=request.run.log_json)
    carry_out(request, argv, num_ranks, run_dir)
