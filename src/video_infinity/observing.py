"""Commands on a run of another process: look at it, end it. They import nothing slow."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_infinity.errors import ResumeError
from video_infinity.manifest import check_manifest
from video_infinity.rundir import RunDir, whole_looking

MAX_NUMBER = 2**53


def run_status(path: Path, *, as_json: bool) -> None:
    """`video-infinity status`: what a run is doing, how far it is, and which processes do it."""
    known = describe(RunDir(path))
    if as_json:
        print(json.dumps(known))
        return
    steps = f"step {known['step']} of {known['num_steps']}" if known["step"] else "no step yet"
    print(f"{path}: {known['state']}; {known['phase'] or 'not begun'}, {steps}")
    saved = ", ".join(map(str, known["checkpoints"])) or "none"
    print(f"checkpoints after steps: {saved}")
    for rank, entry in known["ranks"].items():
        print(f"rank {rank}: process {entry['pid']} on {entry['host']}")


def describe(run_dir: RunDir) -> dict[str, Any]:
    """A run as plain data. Raises ResumeError if the directory is none."""
    manifest, told = run_dir.read_manifest(), run_dir.status()
    check_manifest(manifest)
    if run_dir.is_led():
        state = "ending" if run_dir.asked_to_stop() else "running"
    elif run_dir.is_finished():
        state = "finished"
    elif run_dir.obeyed() is not None:
        state = "cancelled" if run_dir.obeyed() == "cancel" else "interrupted"
    else:
        state = "failed"
    phase, seconds = told.get("phase"), _number(told, "time")
    return {
        "state": state,
        "phase": phase if isinstance(phase, str) else None,
        "step": _number(told, "step") or 0,
        "num_steps": _number(told, "num_steps")
        or manifest["request"]["settings"]["num_inference_steps"],
        "frames": _number(told, "frames") if phase in ("decode", "collect") else 0,
        "num_frames": manifest["request"]["settings"]["num_frames"],
        "checkpoints": sorted(whole_looking(run_dir.checkpoints)),
        "ranks": {str(rank): entry for rank, entry in run_dir.ranks().items()},
        "updated": seconds,
        "age_s": None if seconds is None else round(time.time() - seconds, 1),
    }


def _number(told: Mapping[str, Any], name: str) -> float | None:
    """A number of the status, which has no checksum."""
    value = told.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) < MAX_NUMBER else None


def run_cancel(path: Path) -> None:
    """`video-infinity cancel`: have a run end after the step under way."""
    run_dir = RunDir(path)
    run_dir.read_manifest()
    if not run_dir.is_led():
        raise ResumeError(f"{path} is no run that goes on; there is nothing to cancel")
    try:
        run_dir.ask_to_stop("cancel")
    except OSError as error:
        raise ResumeError(f"{path} cannot be written: {error.strerror}") from error
    print(f"{path}: ends after the step under way")
