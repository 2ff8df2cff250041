"""Find a model's files and refuse broken ones, before any weight is read.

A model is a local directory in diffusers format; a hub id is first fetched into the hub's
cache. Only safetensors and JSON are read: a pickle is never opened.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from video_infinity.errors import ModelError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HUB_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")


def locate(name: str, revision: str | None, what: str) -> Path:
    """The directory of a local model, or of a hub repository after fetching it.

    what  the flag that named it, for messages
    Raises ModelError if there is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelError(f"--revision {revision} has no meaning for the directory {name}")
        return path.resolve()
    if path.exists():
        raise ModelError(f"{what} {name} is a file; give a directory in diffusers format")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"{what} {name!r} is no embedded model, no directory and no hub id (owner/name); "
            "see `video-infinity models`"
        )
    return _fetch(name, revision, what)


def _fetch(name: str, revision: str | None, what: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{what} {name!r} cannot be fetched from the hub ({reason}); check the name, the "
            "revision and the network, or give a local directory"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model directory. Raises ModelError if it is missing or broken."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} has no {path.name}: it is not a model in diffusers format"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} holds a {type(loaded).__name__} where a mapping is wanted")
    return loaded


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of one component, each checked to be whole.

    Raises ModelError if there is none (naming a pickle that lies in its place), or if a file's
    size is not the one that its header declares.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        pickles = [p.name for p in sorted(directory.glob("*")) if p.suffix in PICKLE_SUFFIXES]
        if pickles:
            raise ModelError(
                f"{directory} has weights only as a pickle ({pickles[0]}), which can run code "
                "and is never opened; convert it to safetensors"
            )
        raise ModelError(
            f"{directory} has no safetensors weights; pickles (.bin) are not even fetched from "
            "the hub: choose a --revision with safetensors, or convert the model"
        )
    for file in files:
        check_safetensors(file)
    return files


def count_weights(directory: Path) -> int:
    """Numbers in a component's weights, from the file headers."""
    return sum(
        math.prod(entry["shape"])
        for file in weight_files(directory)
        for key, entry in check_safetensors(file).items()
        if key != "__metadata__"
    )


def _end_of(entry: dict[str, Any]) -> int:
    """Where a tensor's bytes end. Raises ValueError for one whose numbers are none."""
    numbers = [*entry["shape"], *entry["data_offsets"]]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"a tensor of shape {entry['shape']} at {entry['data_offsets']}")
    return int(entry["data_offsets"][1])


def check_safetensors(file: Path) -> dict[str, Any]:
    """The header of a safetensors file that is as long as its header says.

    Raises ModelError if it is truncated, longer, or no safetensors file.
    """
    try:
        with file.open("rb") as stream:
            header_size = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if not 2 <= header_size <= size - 8:
                raise ValueError(f"header of {header_size} bytes in a file of {size}")
            header = json.loads(stream.read(header_size))
        ends = [_end_of(v) for k, v in header.items() if k != "__metadata__"]
        expected = 8 + header_size + max(ends, default=0)
        if size != expected:
            raise ValueError(f"{size} bytes where {expected} are declared")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{file} is corrupt or truncated ({error}); fetch or save it again"
        ) from error
    return header  # type: ignore[no-any-return]
