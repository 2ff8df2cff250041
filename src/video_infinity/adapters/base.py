"""What the engine asks of a model family, and what it may know of it.

The engine asks for a capability (`frames_per_latent`), never for a name. A third family is one
module that offers an `Adapter`, one that says its facts, and one entry in the registry.

Legend: B batch, C channels, F latent frames, P pixel frames, H height, W width, S text tokens,
D text channels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from video_infinity.config import ModelDefaults
from video_infinity.context.chunks import ChunkStream
from video_infinity.context.install import Sites
from video_infinity.context.text import FrameText
from video_infinity.errors import PlanError
from video_infinity.plan import Clip


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before its weights are read.

    pixels_per_latent  height and width of a picture over those of its latents
    size_multiple      height and width in pixels must be multiples of this
    latent_channels    C of a latent frame
    frames_per_latent  pixel frames of every latent frame; above 1 the first stands for one alone
    decode_frames      latent frames that a rank decodes at a time
    frame_timesteps    whether the denoiser can be told a timestep for every frame of a pass
    knows_frames       whether it was trained to continue frames that it gets clean, at timestep 0
    expert_boundary    training timestep below which a second expert denoises; None for one alone
    fixed_size         whether the default height and width are the only ones
    vocabulary         the words that the model knows, lower case; empty if open
    """

    family: str
    name: str
    pixels_per_latent: int
    size_multiple: int
    latent_channels: int
    defaults: ModelDefaults
    frames_per_latent: int = 1
    decode_frames: int = 8
    expert_boundary: float | None = None
    frame_timesteps: bool = False
    knows_frames: bool = False
    fixed_size: bool = False
    vocabulary: tuple[str, ...] = field(default=(), repr=False)

    def latent_shape_CHW(self, height: int, width: int) -> tuple[int, int, int]:
        """The shape of one latent frame of a video with that many pixels."""
        ratio = self.pixels_per_latent
        return self.latent_channels, height // ratio, width // ratio

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video of `num_frames` pixel frames.

        Raises PlanError if the model cannot make that number; names the two nearest.
        """
        rounds, left = divmod(num_frames - 1, self.frames_per_latent)
        if left:
            low, high = (k * self.frames_per_latent + 1 for k in (rounds, rounds + 1))
            raise PlanError(
                f"num_frames={num_frames} does not fit {self.family} "
                f"({self.frames_per_latent}k+1); the nearest are {low} and {high}"
            )
        return rounds + 1

    @property
    def first_frame_differs(self) -> bool:
        """Whether latent frame 0 stands for something else than the others."""
        return self.frames_per_latent > 1

    def first_pixel_frame(self, latent_frame: int) -> int:
        """The first pixel frame that a latent frame stands for; its prompt is the one there."""
        return (latent_frame - 1) * self.frames_per_latent + 1 if latent_frame else 0

    def pixel_frames(self, span: Clip) -> range:
        """The pixel frames that a span of latent frames stands for."""
        return range(self.first_pixel_frame(span.start), self.first_pixel_frame(span.stop))


Decode = Callable[[torch.Tensor], torch.Tensor]
"""Latents [C, F, H, W] of one chunk to its pictures, uint8 [P, H, W, 3] on the CPU."""


class Adapter(Protocol):
    """A loaded model, driven frame span by frame span."""

    facts: ModelFacts

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def sites(self) -> Sites:
        """Where the model looks over time, for the context's layers."""

    def make_scheduler(self) -> Any:
        """A fresh diffusers scheduler from the model's own config."""

    def truncated(self, prompt: str) -> bool:
        """Whether the text encoder sees less than the whole prompt."""

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text states [len(prompts), S, D]. On rank 0 alone, which alone has the text encoder."""

    def denoise(
        self, z_BCFHW: torch.Tensor, timestep: torch.Tensor, text: FrameText
    ) -> torch.Tensor:
        """The model's prediction for one clip, shaped as z_BCFHW, in its dtype.

        timestep  one; or [F], one for every frame, where the facts have `frame_timesteps`: then
                  inside of `context.timed`, with the sites' `frame_times` installed
        """

    def decoding(self, stream: ChunkStream, *, tiled: bool) -> AbstractContextManager[Decode]:
        """Inside the `with`, what decodes the chunks of `stream`, each after its `begin`.

        tiled  go over a picture in overlapping tiles: less memory, and not quite the same picture
        """
