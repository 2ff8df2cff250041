"""Training state on disk, whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside `path`, then rename, so that a crash leaves the former state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any] | None:
    """The state that `save` wrote, or None where there is none yet."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def log_row(path: Path, **values: float) -> None:
    """Append one row to a CSV file and print it; the first row is preceded by the names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = ",".join(f"{value:.6g}" for value in values.values())
    with path.open("a") as file:
        if file.tell() == 0:
            file.write(",".join(values) + "\n")
        file.write(row + "\n")
    print(" ".join(f"{name}={value:.6g}" for name, value in values.items()), flush=True)
