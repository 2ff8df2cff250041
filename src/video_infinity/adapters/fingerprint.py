"""Which model it is, told by its files without reading all of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

WHOLE_BYTES = 64 * 1024
SAMPLES, SAMPLE_BYTES = 4, 4096
_SUFFIXES = (".json", ".safetensors", ".txt", ".model")


def fingerprint(roots: dict[str, Path]) -> dict[str, str]:
    """A digest of every file that a model is made of, by name.

    roots  the directories of the model, by what they are
    JSON and vocabulary are read whole; of a tensor, all up to WHOLE_BYTES, else SAMPLES pieces of
    it, evenly spread: other weights show, and hours of reading do not.
    """
    found = {}
    for what, root in sorted(roots.items()):
        files = [*root.glob("*"), *root.glob("*/*")]
        for file in sorted(f for f in files if f.is_file() and f.suffix in _SUFFIXES):
            found[f"{what}/{file.relative_to(root).as_posix()}"] = _digest(file)
    return found


def _digest(file: Path) -> str:
    digest = hashlib.sha256(str(file.stat().st_size).encode())
    with file.open("rb") as stream:
        if file.suffix != ".safetensors":
            digest.update(stream.read())
            return digest.hexdigest()
        header_size = int.from_bytes(stream.read(8), "little")
        header = stream.read(header_size)
        digest.update(header)
        for start, stop in _tensors(header):
            for offset in _pieces(start, stop):
                stream.seek(8 + header_size + offset)
                digest.update(stream.read(min(stop - offset, _piece_bytes(start, stop))))
    return digest.hexdigest()


def _tensors(header: bytes) -> list[tuple[int, int]]:
    entries = json.loads(header)
    return sorted(tuple(v["data_offsets"]) for k, v in entries.items() if k != "__metadata__")


def _piece_bytes(start: int, stop: int) -> int:
    return stop - start if stop - start <= WHOLE_BYTES else SAMPLE_BYTES


def _pieces(start: int, stop: int) -> list[int]:
    if stop - start <= WHOLE_BYTES:
        return [start]
    last = stop - SAMPLE_BYTES
    return [start + (last - start) * nth // (SAMPLES - 1) for nth in range(SAMPLES)]
