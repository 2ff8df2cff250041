"""Windows of the timeline, each a pass of its own through the model, dealt to the ranks in turn.

What a rank's windows reach beyond its clip it fetches as latents and gives back as predictions; the
layers exchange nothing. Windows are the timeline's, so that ranks do not show.

Legend: C channels, F frames, H height, W width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from video_infinity.context.exchange import FrameExchange, fetch
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.methods.base import DenoiseJob
from video_infinity.methods.loop import (
    context_alone,
    denoise_stepwise,
    predict_guided,
    whole_plan,
)
from video_infinity.plan import Clip, Plan, contributions

FRAME_DIM = 2
"""Frames in [1, C, F, H, W]."""


T = TypeVar("T")


def deal(windows: Sequence[T], num_ranks: int) -> list[Sequence[T]]:
    """Windows per rank, in timeline order; as many to each as can be."""
    bounds = [rank * len(windows) // num_ranks for rank in range(num_ranks + 1)]
    return [windows[bounds[rank] : bounds[rank + 1]] for rank in range(num_ranks)]


def spans_of(dealt: Sequence[Sequence[range]]) -> list[range]:
    """Per rank, the frames of all its windows; none for a rank without one."""
    return [range(own[0].start, max(w.stop for w in own)) if own else range(0) for own in dealt]


def frames_received(windows: Sequence[range], plan: Plan, rank: int) -> int:
    """Latent frames that a rank receives in a step: of its windows, and of others' predictions."""
    spans = spans_of(deal(windows, plan.num_ranks))
    transfers = (*plan.transfers([_as_clip(s) for s in spans]), *contributions(spans, plan.clips))
    return sum(len(t.frames) for t in transfers if t.target == rank)


def _as_clip(span: range) -> Clip | None:
    return Clip(span.start, span.stop) if span else None


def counted(windows: Sequence[range], *, first_differs: bool) -> list[range]:
    """Of each window, the frames for which its prediction counts.

    first_differs  a model that takes the first frame of what it is given for a video's beginning:
                   that of a later window does not count, where another window holds it further in
    """
    if not first_differs:
        return list(windows)
    return [
        range(w.start + any(o.start < w.start < o.stop for o in windows), w.stop) for w in windows
    ]


class SharedWindows:
    """One rank's end of a denoise in windows that cover the timeline."""

    def __init__(self, job: DenoiseJob, windows: Sequence[range]) -> None:
        self._job, self._dealt = job, deal(windows, job.comm.size)
        self._spans = spans_of(self._dealt)
        parts = counted(windows, first_differs=job.adapter.facts.first_frame_differs)
        self._counted = deal(parts, job.comm.size)
        count_L = torch.zeros(job.num_frames)
        for part in parts:
            count_L[part.start : part.stop] += 1
        assert bool(count_L.all()), "a frame that no window covers"
        clip = job.clip
        self._count = count_L[clip.start : clip.stop].view(1, 1, -1, 1, 1)

    def predict(
        self, context: ClipContext, z_1CFHW: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """The mean of the predictions of all windows that hold a frame, for the clip's frames."""
        job, rank = self._job, self._job.comm.rank
        spans = [_as_clip(span) for span in self._spans]
        z_wide = fetch(job.comm, job.plan, spans, z_1CFHW, FRAME_DIM)
        span = self._spans[rank]
        sums = z_1CFHW[:, :, :0] if z_wide is None else torch.zeros_like(z_wide)
        for window, part in zip(self._dealt[rank], self._counted[rank], strict=True):
            assert z_wide is not None
            context.hold(whole_plan(len(window)))
            z_window = z_wide[:, :, window.start - span.start : window.stop - span.start]
            # Made anew at every step: the texts of all windows would take more room than the model.
            texts = job.texts_of(window)
            predicted = predict_guided(job, context, z_window, timestep, texts)
            sums[:, :, part.start - span.start : part.stop - span.start] += predicted[
                :, :, part.start - window.start :
            ]
        return self._together(span, sums) / self._count.to(sums)

    def _together(self, span: range, sums: torch.Tensor) -> torch.Tensor:
        """The sums over the windows of all ranks, for the frames of this rank's clip."""
        comm, clip = self._job.comm, self._job.clip
        shape = list(sums.shape)
        shape[FRAME_DIM] = len(clip)
        total = sums.new_zeros(shape)
        transfers = contributions(self._spans, self._job.plan.clips)
        around = FrameExchange(comm, span, transfers, (sums,), FRAME_DIM).wait()
        shared = range(max(span.start, clip.start), min(span.stop, clip.stop))
        parts = [
            (around.left_frames, None if around.left is None else around.left[0]),
            (tuple(shared), sums.narrow(FRAME_DIM, shared.start - span.start, len(shared)))
            if shared
            else ((), None),
            (around.right_frames, None if around.right is None else around.right[0]),
        ]
        for frames, part in parts:
            if part is not None:
                index = torch.tensor([f - clip.start for f in frames], device=total.device)
                total.index_add_(FRAME_DIM, index, part)
        return total


def denoise_in_windows(job: DenoiseJob, windows: Sequence[range]) -> Iterator[torch.Tensor]:
    """Denoise this rank's clip, step by step, by the mean prediction of the windows."""
    context, shared = context_alone(job), SharedWindows(job, windows)

    def predict(z_1CFHW: torch.Tensor, timestep: torch.Tensor, step: int) -> torch.Tensor:
        with context.at(float(timestep), step):
            return shared.predict(context, z_1CFHW, timestep)

    with installed(job.adapter.sites(), context):
        yield from denoise_stepwise(job, predict)
