"""Model directories with one file spoilt: they load, or a line says which file to mend."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.drawn import FEWER, changed, ends_well, fails_as_a_mistake, spoilt
from tests.tiny import save_tiny_model
from tests.tiny_wan import save_tiny_wan
from video_infinity.adapters import inspect_model, load_model, model_fingerprint
from video_infinity.adapters.files import check_safetensors, count_weights
from video_infinity.config import ModelSpec, Request, resolve
from video_infinity.errors import ModelError
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.timeline import PromptTimeline

MAKERS: dict[str, Callable[[Path], Path]] = {"unet3d": save_tiny_model, "wan": save_tiny_wan}


@pytest.fixture(scope="module", params=MAKERS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("whole") / "model")


def spoil(data: st.DataObject, file: Path) -> None:
    content = file.read_bytes()
    if file.suffix == ".json" and data.draw(st.booleans(), "as JSON"):
        file.write_text(json.dumps(data.draw(changed(json.loads(content)))))
    else:
        file.write_bytes(data.draw(spoilt(content)))


def use(directory: Path) -> None:
    """All that `generate` does with a model before it denoises."""
    spec = ModelSpec(model=str(directory), device="cpu")
    facts = inspect_model(spec)
    request = Request(PromptTimeline.single("a"), spec)
    prepared = prepare(resolve(request, facts.defaults), facts, 1)
    make_plan(prepared, facts, 1)
    model_fingerprint(spec)
    adapter = load_model(spec)
    adapter.make_scheduler()
    adapter.encode(["a"])


@FEWER
@given(data=st.data())
def test_models(whole: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "model"
        shutil.copytree(whole, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        spoil(data, data.draw(st.sampled_from(files)))
        assert ends_well(lambda: use(copy))


@given(data=st.data())
def test_headers_of_weights(whole: Path, data: st.DataObject) -> None:
    """Read by ourselves, before any library does."""
    file = sorted(whole.rglob("*.safetensors"))[0]
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(data.draw(changed(json.loads(content[8 : 8 + size])))).encode()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
        error = fails_as_a_mistake(lambda: (check_safetensors(path), count_weights(path.parent)))
        assert error is None or isinstance(error, ModelError)
