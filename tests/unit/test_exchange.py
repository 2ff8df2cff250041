"""Frames of any span, fetched from whichever ranks hold them."""

from __future__ import annotations

import pytest
import torch

from video_infinity.comm import Communicator
from video_infinity.comm.threads import run_ranks
from video_infinity.context.exchange import fetch
from video_infinity.plan import Clip, Plan, Scopes, clips_of_lengths

LENGTHS = (3, 1, 6)
WHOLE = Clip(0, 10)
SPANS: dict[str, tuple[Clip | None, ...]] = {
    "one's own": (Clip(0, 3), Clip(3, 4), Clip(4, 10)),
    "a part of one's own": (Clip(1, 2), None, Clip(5, 7)),
    "everything": (WHOLE, WHOLE, WHOLE),
    "none of one's own": (Clip(4, 10), Clip(0, 3), Clip(0, 4)),
    "across an end of one's own": (Clip(2, 5), Clip(3, 10), Clip(0, 5)),
    "far away on both sides": (Clip(8, 9), Clip(9, 10), Clip(0, 1)),
    "nothing": (None, None, None),
    "for one alone": (None, WHOLE, None),
}


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("name", SPANS)
def test_fetch_brings_every_rank_the_frames_of_its_span(name: str, dim: int) -> None:
    spans = SPANS[name]
    plan = Plan(clips_of_lengths(LENGTHS), Scopes(0, 0))
    whole = torch.randn(10, 2, 3, generator=torch.Generator().manual_seed(0)).movedim(0, dim)

    def work(comm: Communicator) -> tuple[torch.Tensor | None, int]:
        clip = plan.clips[comm.rank]
        own = whole.narrow(dim, clip.start, len(clip))
        return fetch(comm, plan, spans, own, dim), comm.bytes_received

    frame_bytes = whole.nbytes // 10
    for span, clip, (got, received) in zip(spans, plan.clips, run_ranks(3, work), strict=True):
        if span is None:
            assert got is None and received == 0
            continue
        assert got is not None
        assert torch.equal(got, whole.narrow(dim, span.start, len(span)))
        assert received == frame_bytes * len(set(span.frames) - set(clip.frames))


def test_one_rank_fetches_from_itself() -> None:
    plan = Plan((WHOLE,), Scopes(0, 0))
    whole = torch.arange(10)

    def work(comm: Communicator) -> torch.Tensor | None:
        return fetch(comm, plan, [Clip(4, 7)], whole, 0)

    (got,) = run_ranks(1, work)
    assert got is not None and got.tolist() == [4, 5, 6]
