"""Noise keyed by (seed, frame, step), and schedulers on spans of frames."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from video_infinity.errors import ModelError
from video_infinity.noise import frame_generator, initial_noise
from video_infinity.sampling import check_splittable, guide, scheduler_step

SHAPE = (4, 3, 5)


def test_noise_of_a_span_is_a_part_of_the_whole() -> None:
    whole = initial_noise(7, range(10), SHAPE)
    assert whole.shape == (1, 4, 10, 3, 5)
    assert torch.equal(initial_noise(7, range(4, 9), SHAPE), whole[:, :, 4:9])


def test_noise_depends_on_every_part_of_its_key() -> None:
    draws = [
        torch.randn(64, generator=frame_generator(*key))
        for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1), (0, 11, 1), (0, 1, 11))
    ]
    stacked = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert float(stacked.abs().max()) < 0.5


def test_noise_is_standard_normal_across_frames() -> None:
    noise = initial_noise(3, range(500), (4, 4, 4))
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    neighbours = torch.stack((noise[:, :, 1:].flatten(), noise[:, :, :-1].flatten()))
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.02


def test_guidance() -> None:
    batch = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)
    assert float(guide(batch, 4.0)) == 9.0
    assert torch.equal(guide(batch[1:], 4.0), batch[1:])


SPLITTABLE: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "DPMSolverSinglestepScheduler": {},
    "DEISMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": {},
    "LCMScheduler": {},
    "PNDMScheduler": {},
    "UniPCMultistepScheduler": {},
}


@pytest.mark.parametrize("name", SPLITTABLE)
def test_common_schedulers_can_be_split(name: str) -> None:
    check_splittable(getattr(diffusers, name)(**SPLITTABLE[name]), 5)


def test_thresholding_is_per_frame_and_so_can_be_split() -> None:
    check_splittable(diffusers.DDIMScheduler(thresholding=True), 5)


class NormalisesOverFrames(diffusers.DDIMScheduler):  # type: ignore[misc]
    """Thresholds by a statistic of the whole batch: not a function of one frame."""

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        return super().step(model_output / sample.abs().max(), timestep, sample, **options)


class DrawsFromAHiddenSource(diffusers.DDIMScheduler):  # type: ignore[misc]
    """Ignores the generator that it is given."""

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        return super().step(model_output + torch.randn(sample.shape), timestep, sample, **options)


@pytest.mark.parametrize("scheduler", [NormalisesOverFrames, DrawsFromAHiddenSource])
def test_a_scheduler_that_cannot_be_split_is_refused_by_name(scheduler: Any) -> None:
    with pytest.raises(ModelError, match=scheduler.__name__):
        check_splittable(scheduler(), 5)


def test_the_check_leaves_the_scheduler_fresh() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler()
    check_splittable(scheduler, 5)
    assert scheduler.num_inference_steps is None
    assert scheduler.model_outputs == [None] * scheduler.config.solver_order


def test_stochastic_steps_are_the_same_in_parts() -> None:
    def walk(frames: range) -> torch.Tensor:
        scheduler = diffusers.EulerAncestralDiscreteScheduler()
        scheduler.set_timesteps(4)
        z = initial_noise(0, frames, SHAPE) * scheduler.init_noise_sigma
        for step, timestep in enumerate(scheduler.timesteps):
            prediction = scheduler.scale_model_input(z, timestep).tanh()
            z = scheduler_step(scheduler, prediction, timestep, z, seed=0, frames=frames, step=step)
        return z

    whole = walk(range(6))
    parts = torch.cat((walk(range(1)), walk(range(1, 6))), 2)
    torch.testing.assert_close(parts, whole)
    assert not torch.allclose(walk(range(1, 7)), whole)
