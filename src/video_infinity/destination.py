"""Where a file goes: checked before the work, claimed during it, and renamed in at its end.

Every file of ours is written to `partial_path(path)` and renamed onto `path` as the last act.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import av

from video_infinity.errors import OutputError, RunError

# Suffix to the codecs that it takes, the default first. "" is a directory of PNGs.
SUFFIXES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {".mp4": ("libx264", "mpeg4"), ".webm": ("libvpx-vp9",), ".gif": ("gif",), "": ("png",)}
)
_FRAME_NAME = re.compile(r"frame_\d{5,}\.png")


def partial_path(path: Path) -> Path:
    """Where the bytes of `path` are until they are complete: beside it, `.NAME.part`."""
    return path.with_name(f".{path.name}.part")


def remove_partial(path: Path) -> None:
    """Remove what a killed run left beside `path`, if anything; what a live sink writes stays.

    A directory of frames that the run was just replacing is put back.
    """
    partial = partial_path(path)
    try:
        os.close(_lock(partial))
    except BlockingIOError:
        return
    except FileNotFoundError:
        pass
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)
    settle_replaced(path)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`; a reader sees the old bytes or the new ones.

    Raises RunError if the disk does not take them; `path` is then as it was.
    """
    partial = partial_path(path)
    try:
        try:
            partial.write_bytes(data)
            flush_to_disk(partial)
            replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise write_failed(path, error) from error


def check_new_file(path: Path, *, overwrite: bool, what: str) -> None:
    """Raise OutputError unless a file can be made at `path`. Leaves nothing behind.

    overwrite  a regular file may be there already
    what       the flag that named `path`, for the message
    """
    with _refusing(path, what):
        if path.is_dir():
            example = path / "name.suffix"
            raise OutputError(f"{what} {path} is a directory; name a file in it, as {example}")
        _check_parent(path, what)
        if path.exists() and not path.is_file():
            raise OutputError(f"{what} {path} is a device or a pipe; name a regular file")
        if path.exists() and not overwrite:
            raise OutputError(f"{what} {path} exists; add --overwrite or name another file")


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless a video can be written to `path`. Leaves nothing behind.

    overwrite  a file, or a directory with nothing but our frame_*.png, may be there already;
               an empty directory always may
    """
    if path.name in (*SUFFIXES, ".."):
        raise OutputError(f"--output {path} has no file name; write one such as out/video.mp4")
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"--output {path}: suffix {path.suffix} is unknown; "
            f"use {', '.join(filter(None, SUFFIXES))}, or none for a directory of PNGs"
        )
    if path.suffix:
        check_new_file(path, overwrite=overwrite, what="--output")
        return
    with _refusing(path, "--output"):
        _check_parent(path, "--output")
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise OutputError(
                f"--output {path} without a suffix means a directory, but a file or link is there; "
                f"name another, or add a suffix such as .mp4"
            )
        _check_frames_only(path, overwrite)


def _check_frames_only(path: Path, overwrite: bool) -> None:
    names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    foreign = [name for name in names if not _FRAME_NAME.fullmatch(name)]
    if foreign:
        raise OutputError(
            f"--output {path} holds {foreign[0]!r}, which is none of our frames and stays; "
            f"name another directory"
        )
    if names and not overwrite:
        raise OutputError(
            f"--output {path} holds {len(names)} frames; add --overwrite or name another directory"
        )


def _check_parent(path: Path, what: str) -> None:
    parent = path.parent
    if not parent.is_dir():
        problem = "is not a directory" if parent.exists() else "does not exist"
        raise OutputError(f"{what} {path}: {parent} {problem}; create it or name another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # os.access grants root everything, and knows neither quotas nor the longest name.
    descriptor, probe = tempfile.mkstemp(prefix=f".{path.name}.", dir=parent)
    os.close(descriptor)
    Path(probe).unlink()


@contextmanager
def _refusing(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        cause = getattr(error, "strerror", None) or error
        raise OutputError(f"{what} {str(path)!r}: {cause}; name another place") from error


def _lock(partial: Path) -> int:
    """A descriptor with which the lock on `partial` ends. Raises BlockingIOError if it is taken."""
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass  # a network file system without locks
    return descriptor


def claim(path: Path) -> int:
    """Make the temp file (or directory) of `path` and lock it; returns the descriptor."""
    partial = partial_path(path)
    try:
        if path.suffix:
            partial.touch()
        else:
            partial.mkdir(exist_ok=True)
        return _lock(partial)
    except BlockingIOError:
        raise OutputError(f"{path} is being written by another run; name another file") from None
    except OSError as error:
        raise write_failed(path, error) from error


def replace(partial: Path, path: Path) -> None:
    """Rename onto `path`; a directory there is kept until the new one is in place."""
    if partial.is_dir() and path.exists():
        path.rename(_replaced_path(path))
    try:
        partial.replace(path)
    finally:
        settle_replaced(path)
    with suppress(OSError):
        flush_to_disk(path.parent)


def _replaced_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.old")


def settle_replaced(path: Path) -> None:
    replaced = _replaced_path(path)
    if not replaced.is_dir():
        return
    if path.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(path)


def flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_failed(path: Path, error: OSError | av.FFmpegError) -> RunError:
    return RunError(
        f"{path} could not be written: {error.strerror or error}; what was there before is "
        f"unchanged; make room on the disk, see that the directory is there, and run again"
    )
