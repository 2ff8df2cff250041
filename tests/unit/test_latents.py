"""Latents files: the format, what is refused, and whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from video_infinity.errors import LatentsError, RunError
from video_infinity.latents import CHECK_SLICE_FRAMES, LatentsWriter, check_latents, read_latents
from video_infinity.output import partial_path, remove_partial

SHAPE = (CHECK_SLICE_FRAMES + 6, 4, 3, 5)


@pytest.fixture
def z_LCHW() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path, z_LCHW: torch.Tensor) -> Path:
    save_file({"latents": z_LCHW}, tmp_path / "z.safetensors")
    return tmp_path / "z.safetensors"


@pytest.mark.parametrize("slices", [(70,), (1, 69), (30, 0, 40)])
def test_written_in_slices_is_written_at_once(
    slices: tuple[int, ...], z_LCHW: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "streamed.safetensors"
    with LatentsWriter(path, SHAPE) as writer:
        for z_FCHW in z_LCHW.split(slices):
            writer.write(z_FCHW)
            assert not path.exists()
    assert path.read_bytes() == save({"latents": z_LCHW})
    assert torch.equal(load_file(path)["latents"], z_LCHW)
    check_latents(path, SHAPE)


def test_other_precisions_and_layouts_are_written_as_float32(tmp_path: Path) -> None:
    z_CFHW = torch.randn(4, 2, 3, 5).bfloat16()
    with LatentsWriter(tmp_path / "z", (2, 4, 3, 5)) as writer:
        writer.write(z_CFHW.transpose(0, 1))
    assert torch.equal(load_file(tmp_path / "z")["latents"], z_CFHW.transpose(0, 1).float())


@pytest.mark.parametrize(("start", "stop"), [(0, 70), (3, 4), (60, 70)])
def test_frames_are_read_as_a_clip(start: int, stop: int, file: Path, z_LCHW: torch.Tensor) -> None:
    z_1CFHW = read_latents(file, start, stop)
    assert z_1CFHW.is_contiguous()
    assert torch.equal(z_1CFHW[0].transpose(0, 1), z_LCHW[start:stop])


@pytest.mark.parametrize("frame", [0, CHECK_SLICE_FRAMES, SHAPE[0] - 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(
    frame: int, value: float, z_LCHW: torch.Tensor, tmp_path: Path
) -> None:
    z_LCHW[frame, 1, 2, 3] = value
    save_file({"latents": z_LCHW}, tmp_path / "z")
    with pytest.raises(LatentsError, match="NaN or infinite values; write it anew"):
        check_latents(tmp_path / "z", SHAPE)


def test_other_shapes_and_types(file: Path, z_LCHW: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(LatentsError, match=r"F32 \[70, 4, 3, 5\]; .* needs F32 \[69, 4, 3, 5\]"):
        check_latents(file, (69, 4, 3, 5))
    save_file({"latents": z_LCHW.double()}, tmp_path / "double")
    with pytest.raises(LatentsError, match="holds F64"):
        check_latents(tmp_path / "double", SHAPE)
    save_file({"latents": z_LCHW, "more": z_LCHW.clone()}, tmp_path / "two")
    with pytest.raises(LatentsError, match="one tensor latents"):
        check_latents(tmp_path / "two", SHAPE)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_files(size: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(LatentsError, match="cannot be read as safetensors"):
        check_latents(file, SHAPE)


def test_no_file_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(LatentsError, match="cannot be read as safetensors"):
            check_latents(path, SHAPE)


def fails_half_way(path: Path, z_LCHW: torch.Tensor) -> None:
    with LatentsWriter(path, SHAPE) as writer:
        writer.write(z_LCHW[:9])
        raise ArithmeticError


def test_an_error_leaves_what_was_there(z_LCHW: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "z.safetensors"
    path.write_text("precious")
    with pytest.raises(ArithmeticError):
        fails_half_way(path, z_LCHW)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "precious"


def test_too_few_frames_are_a_bug_of_ours(z_LCHW: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(AssertionError), LatentsWriter(tmp_path / "z", SHAPE) as writer:
        writer.write(z_LCHW[:9])
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_gone_is_a_run_error(tmp_path: Path) -> None:
    writer = LatentsWriter(tmp_path / "gone" / "z", SHAPE)
    with pytest.raises(RunError, match=r"gone/z could not be written: No such file"), writer:
        pass


def test_a_full_disk_is_a_run_error(
    z_LCHW: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    (tmp_path / "z").write_text("precious")
    with (
        pytest.raises(RunError, match=r"z could not be written: No space left on device; .*room"),
        LatentsWriter(tmp_path / "z", SHAPE) as writer,
    ):
        writer.write(z_LCHW)
    assert [p.name for p in tmp_path.iterdir()] == ["z"]
    assert (tmp_path / "z").read_text() == "precious"


def test_a_live_file_is_nobody_elses(z_LCHW: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "z"
    with LatentsWriter(path, SHAPE) as writer:
        writer.write(z_LCHW[:9])
        remove_partial(path)
        with pytest.raises(LatentsError, match="another run"), LatentsWriter(path, SHAPE):
            pass
        writer.write(z_LCHW[9:])
    assert torch.equal(load_file(path)["latents"], z_LCHW)


def test_what_a_dead_run_left_is_taken_over(z_LCHW: torch.Tensor, tmp_path: Path) -> None:
    partial_path(tmp_path / "z").write_bytes(b"x" * 10**5)
    with LatentsWriter(tmp_path / "z", SHAPE) as writer:
        writer.write(z_LCHW)
    check_latents(tmp_path / "z", SHAPE)
