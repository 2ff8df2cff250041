"""Checkpoints of a running denoise: a directory each, whole once its marker is there.

    step-00015/frames-000000-000042.safetensors   one per clip: latents, scheduler's history
    step-00015/marker.json                        spans, sizes, checksums; renamed last

Tensors have frames first, so that a rank reads just its own, however the clips were cut. Names
inside of a checkpoint are made from numbers and never read from a file.

Legend: F frames, C channels, H height, W width (of latents)
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from video_infinity.destination import atomic_write_bytes
from video_infinity.plan import Clip
from video_infinity.rundir import MARKER, directory_of, step_of
from video_infinity.sealed import file_digest, read_sealed, write_sealed

FORMAT = 1
LATENTS = "latents"


class BrokenCheckpointError(Exception):
    """A checkpoint that is not whole, or is another run's. Says why; never leaves the package."""


@dataclass(frozen=True)
class SpanFile:
    """What a marker says of one clip's file."""

    clip: Clip
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return f"frames-{self.clip.start:06d}-{self.clip.stop:06d}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint by its marker; its files are not yet known to be whole.

    step       steps done
    scheduler  the plain part of the scheduler's state, as `history.captured` gave it
    """

    directory: Path
    step: int
    files: tuple[SpanFile, ...]
    scheduler: dict[str, Any]


def begin(root: Path, step: int) -> Path:
    """An empty directory for a checkpoint; what a dead run left in its place goes."""
    directory = directory_of(root, step)
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    return directory


def write_span(directory: Path, clip: Clip, tensors_FCHW: Mapping[str, torch.Tensor]) -> SpanFile:
    """Write one clip's file. Raises RunError if the disk does not take it."""
    data = save({name: x.detach().cpu().contiguous() for name, x in tensors_FCHW.items()})
    span = SpanFile(clip, len(data), hashlib.sha256(data).hexdigest())
    atomic_write_bytes(directory / span.name, data)
    return span


def commit(
    directory: Path,
    run: str,
    step: int,
    files: Sequence[SpanFile],
    scheduler: dict[str, Any],
    previous: int,
) -> None:
    """Make a checkpoint whole, and drop all others but the previous one.

    run       what tells this run's checkpoints from another's
    previous  the step of the checkpoint before, made or gone on from by this process
    """
    marker = {
        "format": FORMAT,
        "run": run,
        "step": step,
        "spans": [[f.clip.start, f.clip.stop, f.size, f.sha256] for f in files],
        "scheduler": scheduler,
    }
    write_sealed(directory / MARKER, marker)
    for path in directory.parent.iterdir():
        if step_of(path) not in (None, step, previous):
            _remove(path)


def _remove(directory: Path) -> None:
    """The marker goes first, so that a half removed checkpoint is none."""
    (directory / MARKER).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def read_marker(root: Path, step: int, run: str, num_latent_frames: int) -> Checkpoint:
    """The checkpoint of a step. Raises BrokenCheckpointError if it is not this run's, or broken."""
    directory = directory_of(root, step)
    try:
        body = read_sealed(directory / MARKER)
        if body["format"] != FORMAT:
            raise ValueError(f"its format is {body['format']}, and this version reads {FORMAT}")
        if body["run"] != run:
            raise ValueError("it belongs to another run")
        if body["step"] != step or not isinstance(body["scheduler"], dict):
            raise ValueError("it does not say what its name says")
        files = tuple(_span(entry) for entry in body["spans"])
        _check_cover(files, num_latent_frames)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenCheckpointError(f"{MARKER}: {error}") from error
    return Checkpoint(directory, step, files, body["scheduler"])


def _span(entry: Any) -> SpanFile:
    start, stop, size, digest = entry
    if not all(type(number) is int for number in (start, stop, size)) or type(digest) is not str:
        raise ValueError("an entry of its spans is none")
    return SpanFile(Clip(start, stop), size, digest)


def _check_cover(files: Sequence[SpanFile], num_latent_frames: int) -> None:
    end = 0
    for file in files:
        if file.clip.start != end:
            raise ValueError(f"its spans leave frame {end} out")
        end = file.clip.stop
    if end != num_latent_frames:
        raise ValueError(f"its spans end at frame {end} of {num_latent_frames}")


def check_file(checkpoint: Checkpoint, index: int) -> None:
    """Raise BrokenCheckpointError unless a file is, byte for byte, as it was written."""
    file = checkpoint.files[index]
    path = checkpoint.directory / file.name
    try:
        size = path.stat().st_size
        if size != file.size:
            raise BrokenCheckpointError(f"{file.name} has {size} bytes of {file.size}")
        if file_digest(path) != file.sha256:
            raise BrokenCheckpointError(f"{file.name}: its checksum differs")
    except OSError as error:
        raise BrokenCheckpointError(f"{file.name}: {error.strerror or error}") from error


def read_frames(checkpoint: Checkpoint, clip: Clip) -> dict[str, torch.Tensor]:
    """Every tensor of the frames of `clip`, [F, ...], from the files that hold them.

    Raises BrokenCheckpointError if a file is no safetensors file.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    for file in checkpoint.files:
        first, stop = max(clip.start, file.clip.start), min(clip.stop, file.clip.stop)
        if first >= stop:
            continue
        try:
            with safe_open(checkpoint.directory / file.name, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    frames = tensors.get_slice(name)[
                        first - file.clip.start : stop - file.clip.start
                    ]
                    parts.setdefault(name, []).append(frames)
        except (OSError, SafetensorError) as error:
            raise BrokenCheckpointError(f"{file.name}: {error}") from error
    return {name: torch.cat(pieces) for name, pieces in parts.items()}
