"""A file that one process holds, for as long as it lives: a run directory's `lock`."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def take(file: Path) -> int | None:
    """Hold the file until this process ends; the descriptor that does. None if another holds it.

    Raises OSError if the file cannot be made. A network file system without locks keeps nobody out.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass
    return descriptor


def is_held(file: Path) -> bool:
    """Whether a process holds the file now; seen where nothing can be written, too."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
