"""What a run's manifest must hold before anything else looks into it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from video_infinity.errors import ResumeError

_KINDS: dict[str, type] = {
    "run": str,
    "request": dict,
    "request.timeline": list,
    "request.settings": dict,
    "request.settings.num_frames": int,
    "request.settings.num_inference_steps": int,
    "versions": dict,
    "model": dict,
    "inputs": dict,
    "layout": dict,
    "layout.ranks": int,
    "kept": bool,
}


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise ResumeError unless every entry that is read is there, and is of its kind.

    Its checksum tells of accidents; somebody who forged one gets a message as well.
    """
    for path, kind in _KINDS.items():
        value: Any = manifest
        for name in path.split("."):
            value = value.get(name)
        if not isinstance(value, kind):
            raise ResumeError(
                f"the manifest of the run is none of ours: its {path} is no {kind.__name__}; "
                "generate anew"
            )
