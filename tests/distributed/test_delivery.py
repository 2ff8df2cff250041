"""From text to frames and from latents to pictures: what a rank holds, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.distributed.harness import (
    CASES,
    NUM_FRAMES,
    PROMPTS_OVER_TIME,
    load,
    on_threads,
    run_of,
)
from video_infinity.adapters import Adapter
from video_infinity.adapters.base import Decode
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.context.chunks import Chunks, ChunkStream
from video_infinity.context.text import FrameText
from video_infinity.plan import Clip
from video_infinity.timeline import PromptTimeline

CASE = CASES["prompts over time"]
CHUNK_FRAMES = 3


class Log:
    """What the ranks did, in the order in which it was done."""

    def __init__(self) -> None:
        self._lock, self.entries = threading.Lock(), list[tuple[str, int]]()

    def note(self, what: str, frames: int) -> None:
        with self._lock:
            self.entries.append((what, frames))

    def total_before(self, what: str, position: int) -> int:
        return sum(frames for entry, frames in self.entries[:position] if entry == what)


def logged(adapter: Any, log: Log) -> Any:
    """An adapter that decodes short chunks and notes when it does."""
    decoding = adapter.decoding

    @contextmanager
    def noting(stream: ChunkStream, *, tiled: bool) -> Iterator[Decode]:
        def decode(z_CFHW: torch.Tensor) -> torch.Tensor:
            log.note("decode", z_CFHW.shape[1])
            assert z_CFHW.shape[1] <= CHUNK_FRAMES
            picture: torch.Tensor = inner(z_CFHW)
            return picture

        with decoding(stream, tiled=tiled) as inner:
            yield decode

    adapter.decoding = noting
    adapter.facts = replace(adapter.facts, decode_frames=CHUNK_FRAMES)
    return adapter


def whole_video() -> ChunkStream:
    return ChunkStream(SingleCommunicator(), Chunks(NUM_FRAMES, NUM_FRAMES))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_rank_decodes_ahead_of_what_has_been_written(size: int) -> None:
    """When a round begins, all pictures of the rounds before have left every rank."""
    log, z_CFHW = (
        Log(),
        torch.randn(4, NUM_FRAMES, 4, 4, generator=torch.Generator().manual_seed(0)),
    )

    def deliver(comm: Communicator, adapter: Adapter) -> list[torch.Tensor]:
        run, pieces = run_of(CASE, comm, adapter), []

        def sink(piece: torch.Tensor) -> None:
            log.note("write", len(piece))
            pieces.append(piece)

        run.deliver_frames(z_CFHW[None, :, run.clip.start : run.clip.stop], sink)
        return pieces

    results = on_threads(size, lambda rank: logged(load(CASE, rank), log), deliver)
    assert not any(results[1:]), "pictures are rank 0's alone"
    with load(CASE, 0).decoding(whole_video(), tiled=False) as decode:
        difference = torch.cat(results[0]).int() - decode(z_CFHW).int()
    assert int(difference.abs().max()) <= 1
    decodes = [at for at, (what, _) in enumerate(log.entries) if what == "decode"]
    assert len(decodes) == -(-NUM_FRAMES // CHUNK_FRAMES)
    for nth, at in enumerate(decodes):
        earlier_rounds = nth // size * size * CHUNK_FRAMES
        assert log.total_before("write", at) >= earlier_rounds
        assert log.total_before("decode", at) - log.total_before("write", at) <= size * CHUNK_FRAMES


def test_every_frame_is_told_what_the_timeline_says() -> None:
    """On three ranks, the negative prompt first; each distinct text is held once."""
    told: dict[int, tuple[Clip, FrameText]] = {}

    def denoise(comm: Communicator, adapter: Any) -> None:
        run, inner = run_of(CASE, comm, adapter, num_inference_steps=1), adapter.denoise

        def noting(z: torch.Tensor, timestep: torch.Tensor, text: FrameText) -> torch.Tensor:
            told[comm.rank] = run.clip, text
            return inner(z, timestep, text)  # type: ignore[no-any-return]

        adapter.denoise = noting
        run.denoise()

    on_threads(3, lambda rank: load(CASE, rank), denoise)
    timeline = PromptTimeline.from_entries(PROMPTS_OVER_TIME)
    negative, *prompts = load(CASE, 0).encode(["", *timeline.prompts])
    for clip, text in told.values():
        negative_rows, rows = text.row_BF
        mixes = [timeline.mix(frame) for frame in clip.frames]
        assert len(text.rows_RSD) == len(set(mixes)) + 1
        for row, mix in zip(rows, mixes, strict=True):
            expected = prompts[mix.before] * (1 - mix.weight) + prompts[mix.after] * mix.weight
            torch.testing.assert_close(text.rows_RSD[row], expected)
        assert len(set(negative_rows)) == 1 and len(negative_rows) == len(clip)
        torch.testing.assert_close(text.rows_RSD[negative_rows[0]], negative)
    assert sorted(frame for clip, _ in told.values() for frame in clip.frames) == list(
        range(NUM_FRAMES)
    )
