"""Files that are read back: latents, manifests, markers, status. Spoilt, forged, or anything."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tests.end_to_end.test_command import SETTINGS
from tests.fuzz.drawn import PLAIN, changed, fails_as_a_mistake, run, spoilt
from video_infinity import checkpoint
from video_infinity.adapters import inspect_model
from video_infinity.checkpoint import BrokenCheckpointError
from video_infinity.latents import check_latents, read_latents
from video_infinity.options import read_request
from video_infinity.pictures import Pictures
from video_infinity.plan import Clip
from video_infinity.preflight import prepare
from video_infinity.recovery import manifest_of
from video_infinity.rundir import RunDir
from video_infinity.sealed import read_sealed, write_sealed

SHAPE = (3, 4, 2, 2)
LATENTS = save({"latents": torch.ones(SHAPE)})


def header(declared: Any) -> bytes:
    text = json.dumps(declared).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * 48)


HEADERS = changed({"latents": {"dtype": "F32", "shape": [*SHAPE], "data_offsets": [0, 192]}})


@given(spoilt(LATENTS) | HEADERS.map(header) | st.binary(max_size=99))
def test_latents(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "z.safetensors"
        path.write_bytes(data)

        def read() -> None:
            check_latents(path, SHAPE)
            z = read_latents(path, 1, 3)
            assert z.shape == (1, 4, 2, 2, 2) and bool(z.isfinite().all())

        fails_as_a_mistake(read)


@pytest.fixture(scope="module")
def manifest(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("manifest")
    config = place / "run.yaml"
    config.write_text(f"model: {tiny_model}\noutput: {place / 'v.mp4'}\ndevice: cpu\n{SETTINGS}")
    request = read_request({"config": str(config)})
    facts = inspect_model(request.model)
    return manifest_of(prepare(request, facts, 2), facts, 2)


@given(data=st.data())
def test_manifests(manifest: dict[str, Any], data: st.DataObject) -> None:
    """Forged ones too, whose checksum is right. The lock is taken, so that no run begins."""
    with tempfile.TemporaryDirectory() as place:
        run_dir = RunDir(Path(place) / "v.run")
        run_dir.create(manifest, overwrite=False)
        body = read_sealed(run_dir.manifest_file) | {"run": "a run", "created": 0.0}
        if data.draw(st.booleans(), "forged"):
            body = data.draw(forged(body))
        write_sealed(run_dir.manifest_file, body)
        if data.draw(st.booleans(), "spoilt"):
            bits = run_dir.manifest_file.read_bytes()
            run_dir.manifest_file.write_bytes(data.draw(spoilt(bits)))
        assert run("resume", str(run_dir.path)) == 2
        run("status", str(run_dir.path))
        run("status", str(run_dir.path), "--log-json")


def forged(body: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return changed(body).filter(lambda made: isinstance(made, dict))


STATUS = {
    "event": "step",
    "phase": "denoise",
    "step": 3,
    "frames": 9,
    "time": 1.0,
    "made": {"path": "/nowhere/v.mp4", "inode": 3},
}


@given(status=changed(STATUS).map(json.dumps) | st.text(), rank=changed({"rank": 0, "pid": 7}))
def test_status(manifest: dict[str, Any], status: str, rank: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        run_dir = RunDir(Path(place) / "v.run")
        run_dir.create(manifest, overwrite=False)
        (run_dir.path / "status.json").write_bytes(status.encode("utf-8", "surrogatepass"))
        (run_dir.path / "ranks" / "rank-0.json").write_text(json.dumps(rank))
        (run_dir.path / "stop").write_text(json.dumps(rank))
        assert run("status", str(run_dir.path)) == 0
        assert run("status", str(run_dir.path), "--log-json") == 0


@given(data=st.data())
def test_markers_of_checkpoints(data: st.DataObject) -> None:
    """One that was forged is used only if it says the same, or is found broken."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        directory = checkpoint.begin(root, 5)
        z = torch.arange(14.0).view(7, 2)
        clips = (Clip(0, 3), Clip(3, 7))
        files = [
            checkpoint.write_span(directory, c, {"latents": z[c.start : c.stop]}) for c in clips
        ]
        checkpoint.commit(directory, "a run", 5, files, {}, 0)
        marker = directory / "marker.json"
        write_sealed(marker, data.draw(forged(read_sealed(marker))))
        try:
            found = checkpoint.read_marker(root, 5, "a run", 7)
            for index in range(len(found.files)):
                checkpoint.check_file(found, index)
        except BrokenCheckpointError:
            return
        assert torch.equal(checkpoint.read_frames(found, Clip(0, 7))["latents"], z)


@given(data=st.data())
def test_markers_of_pictures(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        pictures = Pictures(Path(place), "a run", (2, 4))
        pictures.find()
        frames = torch.randint(0, 256, (4, 2, 4, 3), dtype=torch.uint8)
        pictures.add(frames)
        pictures.commit(2, [torch.ones(3)])
        marker = Path(place) / "marker.json"
        write_sealed(marker, data.draw(forged(read_sealed(marker))))
        again = Pictures(Path(place), "a run", (2, 4))
        try:
            found = again.find()
        except ValueError:
            return
        assert torch.equal(
            torch.cat([*again.pieces(found.num_frames), frames[:0]]), frames[: found.num_frames]
        )


@given(PLAIN)
def test_what_is_sealed_is_read_as_it_was(body: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sealed.json"
        write_sealed(path, {"body": body})
        assert json.dumps(read_sealed(path)["body"]) == json.dumps(body)
