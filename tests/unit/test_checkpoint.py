"""What is read back is what was written, or nothing; and what a run directory lets happen."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.injected import evil_pickle
from video_infinity import checkpoint, history
from video_infinity.adapters.fingerprint import WHOLE_BYTES, fingerprint
from video_infinity.cadence import AUTO_LEAST_S, AUTO_SHARE, Cadence
from video_infinity.checkpoint import BrokenCheckpointError
from video_infinity.errors import ConfigError, OutputError, ResumeError
from video_infinity.pictures import Pictures
from video_infinity.plan import Clip
from video_infinity.rundir import RunDir, whole_looking
from video_infinity.sampling import scale_input, scheduler_step, start
from video_infinity.sealed import read_sealed, write_sealed

LENGTH, STEPS = 7, 6


# Scheduler's state


def step_through(
    scheduler: Any, z_BCFHW: torch.Tensor, frames: range, steps: range
) -> torch.Tensor:
    for step in steps:
        timestep = scheduler.timesteps[step]
        prediction = torch.sin(scale_input(scheduler, z_BCFHW, timestep))
        z_BCFHW = scheduler_step(
            scheduler, prediction, timestep, z_BCFHW, seed=0, frames=frames, step=step
        )
    return z_BCFHW


@pytest.mark.parametrize(
    "name",
    [
        *(
            "DDIMScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
        ),
        *("DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler"),
        *("EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"),
        *("LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler"),
        *("FlowMatchEulerDiscreteScheduler",),
    ],
)
def test_a_scheduler_goes_on_in_the_middle_and_cut_otherwise(name: str) -> None:
    """Its state, through JSON, gives frames 2 to 5 what they would have had among all seven."""

    def fresh() -> Any:
        scheduler = getattr(diffusers, name)()
        start(scheduler, STEPS, "cpu")
        return scheduler

    z = torch.randn(1, 2, LENGTH, 3, 3, generator=torch.Generator().manual_seed(0))
    scheduler = fresh()
    total = len(scheduler.timesteps)
    middle = step_through(scheduler, z, range(LENGTH), range(4))
    plain, tensors = history.captured(scheduler, fresh(), middle[0].transpose(0, 1).shape)
    plain = json.loads(json.dumps(plain))
    whole = step_through(scheduler, middle, range(LENGTH), range(4, total))

    again = fresh()
    history.restore(again, plain, {k: x[2:6].clone() for k, x in tensors.items()})
    part = step_through(again, middle[:, :, 2:6], range(2, 6), range(4, total))
    assert torch.allclose(part, whole[:, :, 2:6], rtol=1e-5, atol=1e-5)


def test_a_state_of_another_scheduler_is_refused() -> None:
    scheduler = diffusers.DDIMScheduler()
    start(scheduler, 3, "cpu")
    for plain in (
        {"class": "PNDMScheduler", "state": {}},
        {"class": "DDIMScheduler", "state": {"step": 1}},
        {"class": "DDIMScheduler", "state": {"__class__": 1}},
        {"class": "DDIMScheduler", "state": {"ets": {"frames": "absent"}}},
        {"class": "DDIMScheduler", "state": {"ets": {"tensor": [1], "dtype": "load"}}},
    ):
        with pytest.raises(ValueError, match=r"."):
            history.restore(scheduler, plain, {})


# Files


def write(root: Path, step: int, cuts: tuple[int, ...] = (0, 3, 7), previous: int = 0) -> None:
    root.mkdir(exist_ok=True)
    directory = checkpoint.begin(root, step)
    z = torch.arange(LENGTH * 2.0).view(LENGTH, 2) + step
    clips = [Clip(a, b) for a, b in itertools.pairwise(cuts)]
    files = [checkpoint.write_span(directory, c, {"latents": z[c.start : c.stop]}) for c in clips]
    checkpoint.commit(directory, "a run", step, files, {}, previous)


@given(st.sets(st.integers(1, LENGTH - 1)), st.integers(0, LENGTH - 1), st.integers(1, LENGTH))
def test_any_cut_reads_any_frames(inner: set[int], first: int, length: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "checkpoints"
        write(root, 5, (0, *sorted(inner), LENGTH))
        found = checkpoint.read_marker(root, 5, "a run", LENGTH)
        clip = Clip(first, min(LENGTH, first + length))
        read = checkpoint.read_frames(found, clip)["latents"]
        whole = torch.arange(LENGTH * 2.0).view(LENGTH, 2) + 5
        assert torch.equal(read, whole[clip.start : clip.stop])


def test_the_two_newest_stay(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    for previous, step in ((0, 5), (5, 10), (10, 15)):
        write(root, step, previous=previous)
    assert whole_looking(root) == [15, 10]


def test_one_without_a_marker_is_none(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    write(root, 5)
    checkpoint.begin(root, 10)
    assert whole_looking(root) == [5]


@given(st.data())
def test_any_flipped_bit_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "checkpoints"
        write(root, 5)
        file = data.draw(st.sampled_from(sorted((root / "step-00005").iterdir())))
        content = bytearray(file.read_bytes())
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        try:
            found = checkpoint.read_marker(root, 5, "a run", LENGTH)
            for index in range(len(found.files)):
                checkpoint.check_file(found, index)
        except BrokenCheckpointError:
            return
        # What JSON does not tell apart, such as a space that became another one.
        assert file.name == "marker.json"
        assert torch.equal(
            checkpoint.read_frames(found, Clip(0, LENGTH))["latents"],
            torch.arange(LENGTH * 2.0).view(LENGTH, 2) + 5,
        )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"run": "another"}, "belongs to another run"),
        ({"format": 2}, "its format is 2"),
        ({"step": 6}, "does not say what its name says"),
        ({"spans": [[0, 3, 1, ""]]}, "its spans end at frame 3 of 7"),
        ({"spans": [[0, 3, 1, ""], [4, 7, 1, ""]]}, "leave frame 3 out"),
        ({"spans": [["../../x", 7, 1, ""]]}, "an entry of its spans is none"),
        ({"scheduler": None}, "does not say"),
    ],
)
def test_a_marker_that_is_not_this_runs_is_refused(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    write(root, 5)
    marker = root / "step-00005" / "marker.json"
    write_sealed(marker, read_sealed(marker) | changed)
    with pytest.raises(BrokenCheckpointError, match=says):
        checkpoint.read_marker(root, 5, "a run", LENGTH)


@given(st.binary(max_size=200))
def test_whatever_lies_there_is_no_sealed_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "marker.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"."):
            read_sealed(path)


def test_a_file_that_is_too_deep_is_no_sealed_file(tmp_path: Path) -> None:
    path = tmp_path / "marker.json"
    path.write_text('{"body": {"a": ' + "[" * 10**5 + "]" * 10**5 + '}, "sha256": ""}')
    with pytest.raises(ValueError, match="too deep"):
        read_sealed(path)


# Pictures


def test_pictures_go_on_where_they_were_whole(tmp_path: Path) -> None:
    def pictures(run: str = "a run") -> Pictures:
        return Pictures(tmp_path / "spool", run, (2, 4))

    frames = torch.randint(0, 256, (9, 2, 4, 3), dtype=torch.uint8)
    carried = [torch.rand(3), torch.rand(2, 2)]
    first = pictures()
    assert first.find().num_frames == 0
    first.add(frames[:4])
    first.commit(2, carried)
    first.add(frames[4:6])  # and then the process dies
    second = pictures()
    found = second.find()
    assert (found.chunk, found.num_frames) == (2, 4)
    assert all(torch.equal(a, b) for a, b in zip(found.carried, carried, strict=True))
    second.add(frames[4:])
    second.commit(5, [])
    third = pictures()
    assert third.find().num_frames == 9
    assert torch.equal(torch.cat(list(third.pieces(9))), frames)
    with pytest.raises(ValueError, match="another run's"):
        pictures("another").find()
    assert pictures().find().num_frames == 0, "what cannot be used is made anew"


def test_flipped_pictures_are_refused(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, "a run", (2, 4))
    pictures.find()
    pictures.add(torch.zeros(3, 2, 4, 3, dtype=torch.uint8))
    pictures.commit(1, [])
    file = tmp_path / "pictures.rgb"
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    with pytest.raises(ValueError, match="not whole"):
        Pictures(tmp_path, "a run", (2, 4)).find()


def test_what_was_carried_is_never_unpickled(tmp_path: Path) -> None:
    """Not even where its checksum was forged."""
    pictures = Pictures(tmp_path, "a run", (2, 4))
    pictures.find()
    pictures.commit(1, [torch.ones(3)])
    evil, marker = evil_pickle(tmp_path / "code has run"), tmp_path / "marker.json"
    body = read_sealed(marker)
    (tmp_path / f"carried-{body['turn'] % 2}.safetensors").write_bytes(evil)
    write_sealed(marker, body | {"carried": hashlib.sha256(evil).hexdigest()})
    with pytest.raises(ValueError, match="header"):
        Pictures(tmp_path, "a run", (2, 4)).find()
    assert not (tmp_path / "code has run").exists()


# Run directories


def test_a_run_directory_is_led_by_one(tmp_path: Path) -> None:
    one, other = RunDir(tmp_path / "r"), RunDir(tmp_path / "r")
    one.create({}, overwrite=False)
    assert other.is_led()
    with pytest.raises(ResumeError, match="is in use"):
        other.lead()


def test_what_can_be_gone_on_with_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r"
    begun = RunDir(path)
    begun.create({}, overwrite=False)
    RunDir(path).check_free(overwrite=False)
    write(begun.checkpoints, 5)
    with pytest.raises(OutputError, match="can be gone on with"):
        RunDir(path).check_free(overwrite=False)
    RunDir(path).check_free(overwrite=True)


def test_a_video_beside_our_files_stays(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "r")
    run_dir.create({}, overwrite=False)
    (run_dir.path / "video.mp4").write_text("precious")
    RunDir(run_dir.path / ".").check_free(overwrite=False)
    run_dir.remove()
    assert [path.name for path in run_dir.path.iterdir()] == ["video.mp4"]


def test_what_is_none_of_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "photo").touch()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds something else"):
            RunDir(tmp_path).create({}, overwrite=overwrite)
    with pytest.raises(OutputError, match="is a file"):
        RunDir(tmp_path / "photo").create({}, overwrite=True)
    with pytest.raises(OutputError, match="no directory"):
        RunDir(tmp_path / "missing" / "r").create({}, overwrite=True)


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [("5", 5, math.inf), (5, 5, math.inf), ("30s", math.inf, 30), ("0.5s", math.inf, 0.5)],
)
def test_intervals(text: object, steps: float, seconds: float) -> None:
    assert Cadence.parse(text) == Cadence(steps, seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "5m", "1.5", 0, True, None, "nan", "1e3s"])
def test_no_intervals(text: object) -> None:
    with pytest.raises(ConfigError, match="is no interval"):
        Cadence.parse(text)


def test_the_interval_of_itself_keeps_to_its_share() -> None:
    auto = Cadence.parse("auto")
    assert not auto.is_due(1000, AUTO_LEAST_S - 1, 0.001)
    assert auto.is_due(1, AUTO_LEAST_S, 0.001)
    assert not auto.is_due(1, 9 / AUTO_SHARE, 10) and auto.is_due(1, 10 / AUTO_SHARE, 10)
    assert not Cadence.parse("never").is_due(10**6, 10**6, 0)


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    def of(large: torch.Tensor, small: torch.Tensor) -> dict[str, str]:
        save_file({"large": large, "small": small}, tmp_path / "unet.safetensors")
        return fingerprint({"model": tmp_path})

    large, small = torch.zeros(WHOLE_BYTES), torch.zeros(9)
    one = of(large, small)
    assert of(large, small) == one
    small[8] = 1
    other = of(large, small)
    assert other != one
    assert of(large + 1e-3, small) != other
