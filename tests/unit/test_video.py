"""A finished video: frames on disk, on rank 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from video_infinity.errors import OutputError, RunError
from video_infinity.video import Video

PIECES = [torch.full((n, 4, 6, 3), n, dtype=torch.uint8) for n in (2, 1, 3)]


@pytest.fixture
def video() -> Video:
    video = Video(8.0, 4, 6, is_main=True)
    for piece in PIECES:
        video.append(piece)
    return video


def test_frames_come_back_in_order(video: Video) -> None:
    expected = torch.cat(PIECES).numpy()
    assert len(video) == len(expected) == 6
    assert np.array_equal(np.stack(list(video)), expected)
    assert [len(piece) for piece in video.pieces()] == [2, 1, 3]


def test_a_frame_that_was_handed_out_stays_as_it_is(video: Video) -> None:
    first, *_ = list(video)
    first[:] = 99
    assert next(iter(video)).max() == 2


def test_other_ranks_have_no_frames_and_write_nothing(tmp_path: Path) -> None:
    video = Video(8.0, 4, 6, is_main=False)
    assert len(video) == 0 and list(video) == []
    video.save(tmp_path / "missing" / "v.mp4")
    assert not list(tmp_path.iterdir())


def test_save_refuses_before_it_writes(video: Video, tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "v.mp4", tmp_path / "v.avi"):
        with pytest.raises(OutputError):
            video.save(path)
    assert not list(tmp_path.iterdir())


def test_the_end_of_with_gives_the_disk_back(video: Video, tmp_path: Path) -> None:
    with video:
        pass
    for use in (lambda: next(iter(video)), lambda: video.save(tmp_path / "v.gif")):
        with pytest.raises(RunError, match="closed"):
            use()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_run_error_with_the_way_out(
    video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(video._spool, "_file", full)
        with pytest.raises(RunError, match=r"No space left on device; .* TMPDIR"):
            video.append(PIECES[0])
