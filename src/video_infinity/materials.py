"""What a denoise begins with: noise, and the text of every frame, of any span of the timeline.

Legend: P prompts, R rows, S text tokens, D text channels, C channels, F frames, H height, W width
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from video_infinity.adapters.base import Adapter
from video_infinity.comm import Communicator
from video_infinity.config import Request, chosen
from video_infinity.context.text import FrameText
from video_infinity.latents import read_latents
from video_infinity.mesh import Mesh
from video_infinity.noise import initial_noise, shuffled_frames
from video_infinity.peers import noise_stride


class Materials:
    """Text and noise of one request, for the passes that one rank goes through.

    Made on all ranks alike: rank 0 alone encodes the prompts, and what it made of them travels.
    """

    def __init__(
        self, request: Request, adapter: Adapter, comm: Communicator, mesh: Mesh, num_frames: int
    ) -> None:
        self._request, self._adapter = request, adapter
        self._num_frames = num_frames
        self._branch = mesh.branch_of(comm.rank) if mesh.cfg > 1 else None
        text_PSD = None
        if comm.rank == 0:
            text_PSD = adapter.encode([request.video.negative_prompt, *request.timeline.prompts])
        self._text_PSD = comm.broadcast(text_PSD, adapter.device)

    def texts_of(self, frames: Sequence[int]) -> tuple[FrameText, ...]:
        """What this rank's passes of the denoiser read at these latent frames."""
        text = self._text_of(frames)
        if self._branch is not None:
            return (text.branch(self._branch),)
        if self._request.run.sequential_guidance:
            return tuple(text.branch(index) for index in range(text.num_branches))
        return (text,)

    def _text_of(self, frames: Sequence[int]) -> FrameText:
        timeline, facts = self._request.timeline, self._adapter.facts
        mixes = [timeline.mix(facts.first_pixel_frame(frame)) for frame in frames]
        distinct = {mix: row for row, mix in enumerate(dict.fromkeys(mixes))}
        prompts_PSD, row_F = self._text_PSD[1:], tuple(distinct[mix] for mix in mixes)
        rows_RSD = torch.stack(
            [torch.lerp(prompts_PSD[m.before], prompts_PSD[m.after], m.weight) for m in distinct]
        )
        if chosen(self._request.video.guidance_scale) <= 1:
            return FrameText(rows_RSD, (row_F,))
        negative_F = (len(distinct),) * len(row_F)
        return FrameText(torch.cat((rows_RSD, self._text_PSD[:1])), (negative_F, row_F))

    def noise_of(self, frames: range) -> torch.Tensor:
        """Unit noise [1, C, F, H, W] of a span, float32; frames past the end have their own."""
        video, end = self._request.video, min(frames.stop, self._num_frames)
        shape_CHW = self._adapter.facts.latent_shape_CHW(chosen(video.height), chosen(video.width))
        inside, parts = range(frames.start, end), []
        if inside and video.initial_latents is not None:
            parts.append(read_latents(video.initial_latents, inside.start, inside.stop))
        elif inside:
            source = [self._source[frame] for frame in inside]
            parts.append(initial_noise(video.seed, source, shape_CHW))
        if frames.stop > end:
            past = range(max(end, frames.start), frames.stop)
            parts.append(initial_noise(video.seed, past, shape_CHW))
        return torch.cat(parts, 2)

    @cached_property
    def _source(self) -> Sequence[int]:
        """Of every frame, the frame whose noise it begins with."""
        how = self._request.how
        if how.noise != "freenoise":
            return range(self._num_frames)
        width = chosen(how.window_frames)
        stride = noise_stride(how.method, width, how.stride_frames)
        return shuffled_frames(self._request.video.seed, self._num_frames, width, stride)
