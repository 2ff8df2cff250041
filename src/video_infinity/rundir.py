"""A run is a directory: what it was asked for, how far it is, and what it can go on from.

    manifest.json   the request, versions, the model's fingerprint; there before the first rank
    checkpoints/    see checkpoint.py; here only their names
    spool/          finished pictures, see pictures.py
    ranks/          each rank's process id
    status.json     how far the run is; log.jsonl, what happened
    stop            there once somebody has asked the run to end
    lock            held by the process that leads the run, for as long as it lives

Everything that is read back is JSON or safetensors, and stays inside of the directory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from video_infinity import lock
from video_infinity.errors import OutputError, ResumeError, RunError
from video_infinity.notes import read_note, write_note
from video_infinity.sealed import read_sealed, write_sealed

FORMAT = 1
MARKER = "marker.json"
_OURS = (
    *("manifest.json", "checkpoints", "spool", "ranks", "status.json", "log.jsonl", "stop"),
    "report.json",
)
_NAME = re.compile(r"step-(\d{5,9})")
_STATUS_EVERY_S = 0.5
_FREQUENT = MappingProxyType({"step": "step", "frames": "frames"})
"""Events that come often, and the one number of them that is kept."""


def directory_of(root: Path, step: int) -> Path:
    return root / f"step-{step:05d}"


def step_of(directory: Path) -> int | None:
    """The step whose checkpoint a directory is, by its name; None if it is none."""
    named = _NAME.fullmatch(directory.name)
    return int(named[1]) if named else None


def whole_looking(root: Path) -> list[int]:
    """Steps of the checkpoints that have a marker, newest first."""
    steps = (step_of(path) for path in (root.iterdir() if root.is_dir() else ()))
    whole = (s for s in steps if s is not None and (directory_of(root, s) / MARKER).is_file())
    return sorted(whole, reverse=True)


class RunDir:
    """One run's directory. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.checkpoints, self.spool = self.path / "checkpoints", self.path / "spool"
        self.manifest_file = self.path / "manifest.json"
        self._stop, self._status = self.path / "stop", self.path / "status.json"
        self._log, self._ranks = self.path / "log.jsonl", self.path / "ranks"
        self._lock: int | None = None
        self._known: dict[str, Any] = {}
        self._written = 0.0

    # The process that leads the run: the launcher, or the one rank that there is.

    def create(self, manifest: Mapping[str, Any], *, overwrite: bool) -> str:
        """Begin a run here, and lead it. Returns the run's id.

        Raises OutputError if the directory cannot be made, holds something else, or a run that
        got somewhere (unless `overwrite`), or is being written by another.
        """
        self.check_free(overwrite=overwrite)
        run = uuid.uuid4().hex
        try:
            self.path.mkdir(exist_ok=True)
            self._take_lock()
            self._empty()
            self._ranks.mkdir()
            self.checkpoints.mkdir()
            body = {"format": FORMAT, "run": run, "created": time.time(), **manifest}
            write_sealed(self.manifest_file, body)
        except OSError as error:
            raise self._refused(error) from error
        return run

    def check_free(self, *, overwrite: bool) -> None:
        """Raise OutputError if a run cannot begin here, as `create` does. Leaves nothing behind."""
        try:
            self._check_free(overwrite=overwrite)
        except OutputError:
            raise
        except (OSError, ValueError) as error:  # ValueError: no name that the disk takes
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> OutputError:
        cause = getattr(error, "strerror", None) or error
        return OutputError(f"--run-dir {str(self.path)!r}: {cause}; name another place")

    def _check_free(self, *, overwrite: bool) -> None:
        path = self.path
        if not path.parent.is_dir():
            raise OutputError(
                f"--run-dir {path}: {path.parent} is no directory; create it or name another place"
            )
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise OutputError(f"--run-dir {path} is a file or a link; name a directory")
        if not path.exists():
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise OutputError(f"--run-dir {path} cannot be made there; name another place")
            return
        if any(path.iterdir()) and not self.manifest_file.is_file():
            raise OutputError(f"--run-dir {path} holds something else; name another directory")
        if whole_looking(self.checkpoints) and not overwrite and not self.is_finished():
            raise OutputError(
                f"{path} holds a run that can be gone on with (video-infinity resume {path}); "
                "add --overwrite to begin anew, or name another --run-dir"
            )

    def lead(self) -> None:
        """Be the one process that leads this run. Raises ResumeError if it cannot be."""
        try:
            self._take_lock()
        except OSError as error:
            raise ResumeError(
                f"{self.path} cannot be written: {error.strerror}; mend that, or copy the "
                "directory to another place and resume there"
            ) from error

    def _take_lock(self) -> None:
        self._lock = lock.take(self.path / "lock")
        if self._lock is None:
            raise ResumeError(
                f"{self.path} is in use by a run that goes on; wait for it, or end it with "
                f"video-infinity cancel {self.path}"
            )

    def is_led(self) -> bool:
        """Whether a process leads the run now."""
        return lock.is_held(self.path / "lock")

    def _empty(self) -> None:
        """Remove what is ours; a video that somebody put here stays."""
        for name in _OURS:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def begin_attempt(self) -> None:
        """Forget the ranks, and the wish to end, of an attempt before. Raises RunError."""
        self._known = {}
        try:
            self._stop.unlink(missing_ok=True)
            self._status.unlink(missing_ok=True)
            shutil.rmtree(self._ranks, ignore_errors=True)
            self._ranks.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}; mend the directory, and resume"
            ) from error

    def remove(self) -> None:
        """Remove a run that is done with; what cannot be removed stays."""
        with suppress(OSError):
            self._empty()
            (self.path / "lock").unlink(missing_ok=True)
            self.path.rmdir()

    def forget_progress(self) -> None:
        """Drop what a run that is done could be gone on with from."""
        for directory in (self.checkpoints, self.spool):
            shutil.rmtree(directory, ignore_errors=True)

    # Every process of the run.

    def read_manifest(self) -> dict[str, Any]:
        """What `create` wrote. Raises ResumeError if it is missing, broken, of another version."""
        try:
            manifest = read_sealed(self.manifest_file)
        except FileNotFoundError as error:
            raise ResumeError(
                f"{self.path} has no manifest.json, so that it is no run directory; name the one "
                "that the run printed"
            ) from error
        except (OSError, ValueError) as error:
            raise ResumeError(
                f"{self.manifest_file} was changed or is broken ({error}); generate anew"
            ) from error
        if manifest.get("format") != FORMAT:
            raise ResumeError(
                f"{self.path} has format {manifest.get('format')}, and this version reads "
                f"{FORMAT}; go on with the version that began it, or generate anew"
            )
        return manifest

    def require(self) -> None:
        """Raise FileNotFoundError if somebody has removed the directory."""
        self.manifest_file.stat()

    def publish_rank(self, rank: int) -> None:
        """Say which process a rank is."""
        entry = {"rank": rank, "pid": os.getpid(), "host": socket.gethostname()}
        with suppress(OSError):
            write_note(self._ranks / f"rank-{rank}.json", entry)

    def ranks(self) -> dict[int, dict[str, Any]]:
        """What the ranks published, by rank."""
        entries = [read_note(file) for file in sorted(self._ranks.glob("rank-*.json"))]
        kinds = {"rank": int, "pid": int, "host": str}
        return {
            entry["rank"]: entry
            for entry in entries
            if all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
        }

    def pids(self) -> dict[int, int]:
        """Process ids by rank."""
        return {rank: entry["pid"] for rank, entry in self.ranks().items()}

    def ask_to_stop(self, by: str) -> None:
        """Ask the run to end after the step under way. Raises OSError if that cannot be written.

        by  "signal" or "cancel"
        """
        write_note(self._stop, {"by": by, "time": time.time()})

    def asked_to_stop(self) -> str | None:
        """By what the run was asked to end, if it was."""
        return str(read_note(self._stop).get("by", "signal")) if self._stop.exists() else None

    def obey(self, by: str) -> None:
        """Note that the run has ended because it was asked to. Raises OSError."""
        write_note(self._stop, {"by": by, "time": time.time(), "obeyed": True})

    def obeyed(self) -> str | None:
        """By what the run was ended, if it was."""
        note = read_note(self._stop)
        return str(note.get("by", "signal")) if note.get("obeyed") is True else None

    def tell(self, event: str, **data: Any) -> None:
        """Take note of an event of the run: the newest as the status, the rare ones as a log.

        A disk that does not take it is no failure of the run.
        """
        self._known = self._known or self.status()
        frequent, now = _FREQUENT.get(event), time.time()
        if frequent is not None:
            self._known |= {"event": event, frequent: data[frequent]}
            if event == "step":
                self._known["num_steps"] = data["of"]
            last = data[frequent] == data["of"]
            if not last and now - self._written < _STATUS_EVERY_S:
                return
        else:
            self._known |= {"phase": data["name"]} if event == "phase" else {"event": event, **data}
        self._written = now
        with suppress(OSError):
            write_note(self._status, self._known | {"time": now})
            if frequent is None:
                with self._log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps({"time": round(now, 3), "event": event, **data}) + "\n")

    def status(self) -> dict[str, Any]:
        """What was last told."""
        return read_note(self._status)

    def is_finished(self) -> bool:
        """Whether the video is in its place: the very file that the run made ready."""
        made = self.status().get("made")
        if not isinstance(made, dict) or not isinstance(made.get("path"), str):
            return False
        try:
            return bool(os.stat(made["path"]).st_ino == made.get("inode"))
        except (OSError, ValueError):
            return False
