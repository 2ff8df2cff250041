"""Faults that a test puts into a run: one process does something once, at one point of its way."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

PLAIN = """
import sys
sys.modules.update(dict.fromkeys(("peft", "scipy", "sklearn")))
"""
"""Hides what no plain installation has: diffusers and transformers import all that they find, and
a rank's start, of which this suite has hundreds, takes a quarter longer for it."""

SITE = """
import os
from pathlib import Path

def arm(fault):
    point, nth, rank, action = fault.split(":", 3)
    if os.environ.get("RANK", "alone") != rank:
        return
    fired = Path(__file__).with_name(f"fired {point} {nth} {rank}")
    count = 0

    def passing(*_):
        nonlocal count
        count += 1
        if count != int(nth) or fired.exists():
            return
        fired.touch()
        import signal, sys, time
        exec(action)

    def before(holder, name):
        inner = getattr(holder, name)
        def wrapped(*args, **options):
            passing()
            return inner(*args, **options)
        setattr(holder, name, wrapped)

    if point == "join":
        from video_infinity import launch
        before(launch, "joined_world")
    elif point == "load":
        from video_infinity import rank as part
        before(part, "load_model")
    elif point == "step":
        from video_infinity.keeper import Keeper
        before(Keeper, "after_step")
    elif point == "layer":
        from video_infinity.context.layers import DualScopeProcessor
        before(DualScopeProcessor, "__call__")
    elif point == "save":
        from video_infinity import checkpoint
        before(checkpoint, "write_span")
    elif point == "commit":
        from video_infinity import checkpoint
        before(checkpoint, "write_sealed")
    elif point == "decode":
        from video_infinity.engine import ClipRun
        before(ClipRun, "_collect")
    elif point == "picture":
        from video_infinity.pictures import Pictures
        before(Pictures, "add")
    elif point == "finish":
        from video_infinity.output import FrameSink
        before(FrameSink, "finish")
    elif point == "renamed":
        from video_infinity.output import FrameSink
        inner = FrameSink.__exit__
        def leave(*args):
            inner(*args)
            passing()
        FrameSink.__exit__ = leave
    else:
        raise ValueError(point)

for fault in os.environ["TEST_FAULTS"].split("\x1e"):
    arm(fault)
"""

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
STOP = "os.kill(os.getpid(), signal.SIGSTOP)"
RAISE = "raise ArithmeticError('one and one is three')"
NO_MEMORY = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1, 1)); bytearray(2**30)"
NO_ROOM = "import errno; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
HANG = "time.sleep(3600)"
TELL_LAUNCHER = "os.kill(os.getppid(), signal.SIGTERM)"


def injected(directory: Path, *faults: str) -> dict[str, str]:
    """The environment for a run with faults, each `POINT:NTH:RANK:PYTHON`.

    POINT  join, load, step, layer, save, commit, decode, picture, finish or renamed
    NTH    the how-manieth time that the process comes there, from 1
    RANK   a rank's number, or "alone" for a process that is no rank of a launcher
    Each happens once in the directory, however often the run starts again.
    """
    (directory / "sitecustomize.py").write_text(PLAIN + SITE)
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "TEST_FAULTS": "\x1e".join(faults)}


def fired_at(directory: Path) -> list[float]:
    """When faults have happened, as time.time() tells it."""
    return [note.stat().st_mtime for note in directory.glob("fired *")]


def evil_pickle(touched: Path) -> bytes:
    """What makes a file when it is unpickled."""

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (touched,)

    return pickle.dumps(Evil())
