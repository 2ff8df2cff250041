"""Peak memory of this rank above what it held when the measure began."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
GIVEN_BACK_FROM_BYTES, KEPT_BYTES = 8 << 20, 64 << 20
"""On a CPU: tensors from this size on go back to the system; of what smaller ones leave, so much
at the end of the heap is kept."""


def give_back_large_tensors() -> None:
    """From now on, let glibc return large tensors to the system as soon as they are freed.

    Left alone, it takes the same pages from the system again and again: less memory, and a step
    takes half as long again (benchmarks/growth.md).
    The slices of layers are smaller than this, and their memory is used again (docs/adr/0015).
    Nothing happens on other systems, or where the environment sets glibc's own variables.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if told or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_THRESHOLD, GIVEN_BACK_FROM_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class PeakMemory:
    """Measure from construction on. On CUDA the allocator's peak; else the process's.

    Where the system cannot reset the process's peak (not Linux), an earlier and higher peak
    hides a later one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK)
        self._base = _process_peak_bytes()

    def peak_bytes(self) -> int:
        """Highest use so far: on CUDA in all, on the CPU above the start."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return max(0, _process_peak_bytes() - self._base)


def _process_peak_bytes() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_memory_bytes(device: torch.device) -> int | None:
    """All the memory of a device; None if it is not here."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return None
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
