"""What a result was measured on, in words that say nothing of whose machine it is."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def describe() -> dict[str, Any]:
    """CPU, cores, memory, GPU, versions and the date (UTC), ready for JSON. No names, no paths."""
    return {
        "cpu": _field(CPUINFO, "model name") or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _memory_gib() -> int | None:
    total = _field(MEMINFO, "MemTotal")
    return None if total is None else round(int(total.split()[0]) / 2**20)


def _field(file: Path, name: str) -> str | None:
    """The first value of that name in a file of `name : value` lines; None where there is none."""
    if not file.exists():
        return None
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def in_words(machine: dict[str, Any] | None) -> str:
    """The same as one line for a page."""
    if not machine:
        return "machine not recorded"
    told = {
        "": machine.get("gpu") or machine.get("cpu"),
        "{} cores": machine.get("cores"),
        "{} GiB": machine.get("memory_gib"),
        "Python {}": machine.get("python"),
        "torch {}": machine.get("torch"),
        "{}": machine.get("date"),
    }
    return ", ".join((words or "{}").format(value) for words, value in told.items() if value)
