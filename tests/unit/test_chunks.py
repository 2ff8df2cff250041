"""Chunks dealt to ranks in turn, and what a causal layer is handed from the chunk before."""

from __future__ import annotations

import itertools

import pytest
import torch

from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.comm.threads import run_ranks
from video_infinity.context.chunks import Chunks, ChunkStream
from video_infinity.context.exchange import fetch
from video_infinity.plan import Plan, Scopes, clips_of_lengths, split_timeline


@pytest.mark.parametrize("chunk_frames", [1, 3, 4, 50])
@pytest.mark.parametrize("length", [1, 4, 12, 13, 41])
def test_chunks_cover_the_timeline_in_order(length: int, chunk_frames: int) -> None:
    chunks = Chunks(length, chunk_frames)
    spans = [chunks[index] for index in range(len(chunks))]
    assert [frame for span in spans for frame in span.frames] == list(range(length))
    assert all(len(span) == chunk_frames for span in spans[:-1])
    assert 1 <= len(spans[-1]) <= chunk_frames


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 4, 13, 41])
def test_rounds_deal_every_chunk_once_in_timeline_order(length: int, num_ranks: int) -> None:
    chunks = Chunks(length, 4)
    rounds = list(chunks.rounds(num_ranks))
    dealt = [index for round_ in rounds for index in round_]
    assert dealt[: len(chunks)] == list(range(len(chunks)))
    assert set(dealt[len(chunks) :]) <= {None}
    assert all(len(round_) == num_ranks and round_[0] is not None for round_ in rounds)


def test_no_chunk_needs_more_rounds_than_its_share() -> None:
    assert len(list(Chunks(41, 4).rounds(3))) == 4
    assert len(list(Chunks(3, 4).rounds(5))) == 1


LAYERS = {"at latent rate": 1, "at pixel rate": 4}
"""Frames of a layer's input for each latent frame."""
HALO = 2


def numbered(start: int, stop: int) -> torch.Tensor:
    """Frames [1, 1, F, 1, 1] that hold their own numbers."""
    return torch.arange(start, stop, dtype=torch.float32).view(1, 1, -1, 1, 1)


Handed = dict[tuple[int, int, str], list[float]]
"""By (chunk, part, layer)."""


def heads_on(size: int, length: int, chunk_frames: int, parts: int) -> Handed:
    """What every layer was handed by the chunk before."""
    chunks = Chunks(length, chunk_frames)

    def work(comm: Communicator) -> Handed:
        stream, handed = ChunkStream(comm, chunks), Handed()
        for round_ in chunks.rounds(size):
            index = round_[comm.rank]
            if index is None:
                continue
            stream.begin(index)
            assert stream.is_first == (index == 0)
            for part, (layer, rate) in itertools.product(range(parts), LAYERS.items()):
                stream.part = part
                span = chunks[index]
                own = 1000 * part + numbered(span.start * rate, span.stop * rate)
                head = stream.before(layer, own, HALO)
                handed[index, part, layer] = [] if head is None else head.flatten().tolist()
        assert not stream._carried, "something is held that nobody will ask for"
        return handed

    found = Handed()
    for handed in run_ranks(size, work):
        found |= handed
    return found


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("length", "chunk_frames"), [(1, 4), (4, 4), (5, 4), (13, 4), (19, 3)])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_layer_is_handed_the_last_frames_of_the_chunk_before(
    size: int, length: int, chunk_frames: int, parts: int
) -> None:
    handed = heads_on(size, length, chunk_frames, parts)
    assert len(handed) == len(Chunks(length, chunk_frames)) * parts * len(LAYERS)
    for (index, part, layer), head in handed.items():
        first = index * chunk_frames * LAYERS[layer]
        expected = [1000.0 * part + first - 2, 1000.0 * part + first - 1] if index else []
        assert head == expected


def test_a_chunk_of_another_rank_is_refused() -> None:
    def work(comm: Communicator) -> None:
        ChunkStream(comm, Chunks(8, 4)).begin(1 - comm.rank)

    with pytest.raises(AssertionError):
        run_ranks(2, work)


def test_a_chunk_shorter_than_what_it_hands_on_is_refused() -> None:
    stream = ChunkStream(SingleCommunicator(), Chunks(3, 1))
    stream.begin(0)
    with pytest.raises(AssertionError, match="shorter than its tail"):
        stream.before("layer", numbered(0, 1), HALO)


@pytest.mark.parametrize("lengths", [(13,), (5, 8), (1, 10, 2), (1, 1, 1, 10)])
def test_every_rank_fetches_the_frames_of_its_chunk_from_whoever_holds_them(
    lengths: tuple[int, ...],
) -> None:
    plan, chunks = Plan(clips_of_lengths(lengths), Scopes(0, 0)), Chunks(13, 4)
    z_FC = torch.arange(26.0).view(13, 2)

    def work(comm: Communicator) -> list[tuple[int, torch.Tensor]]:
        clip, fetched = plan.clips[comm.rank], []
        for round_ in chunks.rounds(comm.size):
            spans = [None if index is None else chunks[index] for index in round_]
            found = fetch(comm, plan, spans, z_FC[clip.start : clip.stop], dim=0)
            index = round_[comm.rank]
            assert (found is None) == (index is None)
            if index is not None and found is not None:
                fetched.append((index, found))
        return fetched

    fetched = dict(pair for pairs in run_ranks(len(lengths), work) for pair in pairs)
    for index in range(len(chunks)):
        span = chunks[index]
        assert torch.equal(fetched[index], z_FC[span.start : span.stop])


def test_nobody_fetches_what_is_its_own() -> None:
    plan, chunks = Plan(split_timeline(8, 2), Scopes(0, 0)), Chunks(8, 4)

    def work(comm: Communicator) -> int:
        clip = plan.clips[comm.rank]
        fetch(comm, plan, [chunks[0], chunks[1]], torch.zeros(len(clip), 2), dim=0)
        return comm.bytes_received

    assert run_ranks(2, work) == [0, 0]
