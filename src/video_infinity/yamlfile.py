"""YAML and JSON files that a person wrote, with errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from video_infinity.errors import UserError


def read_yaml(path: Path, what: str, kind: type[UserError]) -> Any:
    """What a YAML file holds, as plain data; a file that ends in .json is read as JSON.

    what  the flag that named it, for messages
    Raises `kind` if it cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null byte in the name
        cause = getattr(error, "strerror", None) or error
        raise kind(f"{what} {str(path)!r} cannot be read: {cause}; name a YAML file") from error
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except Exception as error:  # PyYAML lets through what Python says to `!!int ''` or `!!bool x`
        reason = " ".join(_reason(error).split())
        language = "JSON" if path.suffix == ".json" else "YAML"
        raise kind(f"{what} {path} is not {language} ({reason}); mend the file") from error


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return str(error)
