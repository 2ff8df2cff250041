"""Small JSON files that one process writes, and others look at meanwhile."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_note(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all. Does not wait for the disk: no run outlives a crash of its machine.

    Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(json.dumps(value) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def read_note(path: Path) -> dict[str, Any]:
    """What was last written; nothing if there is none, or it is no mapping."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
