"""Schedulers for frames that do not all take the same step at once.

Legend: C channels, F frames of a clip, H height, W width
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from video_infinity.sampling import initial_sigma, scale_input, scheduler_step


@dataclass(frozen=True)
class Group:
    """Frames that begin together, and the scheduler that steps them.

    places  in the clip
    own     whether they are the clip's; else a frame stands in for one that other ranks have
    """

    delay: int
    scheduler: Any
    places: tuple[int, ...]
    own: bool


class Staggered:
    """A scheduler in which frames begin with steps of their own: one for each group of them.

    A scheduler may remember its last steps, as UniPC does, so that those of frames at another step
    are none of its business. Every rank has all groups of the timeline: what a scheduler keeps
    beside tensors over frames is then the same on all of them, whoever has which frames. One step
    on a frame that stands in costs next to nothing beside the denoiser.

    scheduler  its timesteps set, no step taken
    delays     of every frame of the timeline, the step that it begins with
    clip       the frames of this rank
    """

    def __init__(self, scheduler: Any, delays: Sequence[int], clip: range) -> None:
        self.timesteps: torch.Tensor = scheduler.timesteps
        self.init_noise_sigma = initial_sigma(scheduler)
        self._delays = delays
        self._own_delays = [delays[frame] for frame in clip]
        self._waiting = copy.deepcopy(scheduler)
        self.groups = []
        for delay in sorted(set(delays)):
            places = tuple(i for i, frame in enumerate(clip) if delays[frame] == delay)
            group = Group(delay, copy.deepcopy(scheduler), places or (0,), bool(places))
            self.groups.append(group)

    def timesteps_of(self, frames: Iterable[int], done: int) -> torch.Tensor:
        """Of frames of the timeline: the first for those that wait, and 0 for those done [F]."""
        times = [*self.timesteps, torch.zeros_like(self.timesteps[0])]
        steps = [max(0, done - self._delays[frame]) for frame in frames]
        return torch.stack([times[min(step, len(times) - 1)] for step in steps])

    def _stepping(self, done: int) -> Iterator[tuple[int, Group]]:
        """The groups that take a step after `done` passes, each with that step."""
        for group in self.groups:
            if 0 <= (step := done - group.delay) < len(self.timesteps):
                yield step, group

    def scaled(self, z_1CFHW: torch.Tensor, done: int) -> torch.Tensor:
        """The clip's latents as the denoiser wants them."""
        scaled_1CFHW = z_1CFHW.clone()
        waiting = [place for place, delay in enumerate(self._own_delays) if delay > done]
        if waiting:
            scaled_1CFHW[:, :, waiting] = scale_input(
                self._waiting, z_1CFHW[:, :, waiting], self.timesteps[0]
            )
        for step, group in self._stepping(done):
            places = list(group.places)
            one_1CFHW = scale_input(group.scheduler, z_1CFHW[:, :, places], self.timesteps[step])
            if group.own:
                scaled_1CFHW[:, :, places] = one_1CFHW
        return scaled_1CFHW

    def stepped(
        self,
        predicted_1CFHW: torch.Tensor,
        z_1CFHW: torch.Tensor,
        done: int,
        *,
        seed: int,
        first_frame: int,
        eta: float,
    ) -> torch.Tensor:
        """The latents after the step that is each frame's; those that wait or are done stay.

        first_frame  of the clip
        """
        stepped_1CFHW = z_1CFHW.clone()
        for step, group in self._stepping(done):
            places = list(group.places)
            one_1CFHW = scheduler_step(
                group.scheduler,
                predicted_1CFHW[:, :, places],
                self.timesteps[step],
                z_1CFHW[:, :, places],
                seed=seed,
                frames=[first_frame + place for place in places],
                step=step,
                eta=eta,
            )
            if group.own:
                stepped_1CFHW[:, :, places] = one_1CFHW
        return stepped_1CFHW
