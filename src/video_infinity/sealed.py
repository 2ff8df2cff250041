"""JSON that is read back only if it is as it was written: with a checksum over its content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from video_infinity.destination import atomic_write_bytes


def canonical(body: Any) -> bytes:
    """Plain data as bytes, the same for equal data."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def write_sealed(path: Path, body: dict[str, Any]) -> None:
    """Write whole or not at all. Raises RunError if the disk does not take it."""
    seal = hashlib.sha256(canonical(body)).hexdigest()
    atomic_write_bytes(path, json.dumps({"sha256": seal, "body": body}, indent=1).encode() + b"\n")


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises OSError, or ValueError if it is anything else."""
    try:
        sealed = json.loads(path.read_bytes())
        body = sealed.get("body") if isinstance(sealed, dict) else None
        if not isinstance(body, dict):
            raise ValueError("it is no file of ours")
        if hashlib.sha256(canonical(body)).hexdigest() != sealed.get("sha256"):
            raise ValueError("its checksum differs")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return body


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
