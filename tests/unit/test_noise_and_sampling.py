"""Noise keyed by (seed, frame, step), and schedulers on spans of frames."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch

from video_infinity.errors import ConfigError, ModelError
from video_infinity.noise import frame_generator, initial_noise
from video_infinity.sampling import (
    GuidanceSchedule,
    check_eta,
    check_splittable,
    guide,
    initial_sigma,
    scale_input,
    scheduler_step,
    start,
)

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


def test_guidance_changes_where_the_second_expert_takes_over() -> None:
    schedule = GuidanceSchedule(4.0, 3.0, boundary=875.0)
    assert [schedule.at(level) for level in (999.0, 875.0, 874.9, 0.0)] == [4.0, 4.0, 3.0, 3.0]


@pytest.mark.parametrize("options", [{}, {"low_noise_scale": 3.0}, {"boundary": 875.0}])
def test_guidance_without_a_second_scale_or_expert_stays(options: dict[str, float]) -> None:
    schedule = GuidanceSchedule(4.0, **options)
    assert [schedule.at(level) for level in (999.0, 0.0)] == [4.0, 4.0]


def test_a_second_scale_of_zero_is_a_scale() -> None:
    assert GuidanceSchedule(4.0, 0.0, boundary=500.0).at(100.0) == 0.0


SPLITTABLE: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "DPMSolverSinglestepScheduler": {},
    "DEISMultistepScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "HeunDiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": {},
    "LCMScheduler": {},
    "PNDMScheduler": {},
    "UniPCMultistepScheduler": {},
}


@pytest.mark.parametrize("name", SPLITTABLE)
def test_common_schedulers_can_be_split(name: str) -> None:
    check_splittable(getattr(diffusers, name)(**SPLITTABLE[name]), 5)


def test_multistep_flow_matching_can_be_split() -> None:
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    check_splittable(diffusers.UniPCMultistepScheduler(**options), 5)


def test_flow_matching_that_draws_is_told_what_to_draw() -> None:
    check_splittable(diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), 5)


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


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_an_eta_of_1_is_ddpm(prediction_type: str) -> None:
    """Against diffusers' own DDPM, which draws the same noise; without eta it is something else."""
    kind = {"prediction_type": prediction_type, "timestep_spacing": "trailing"}
    ddim = diffusers.DDIMScheduler(clip_sample=False, **kind)
    ddpm = diffusers.DDPMScheduler(clip_sample=False, **kind)

    def walk(scheduler: Any, eta: float) -> torch.Tensor:
        start(scheduler, 10, "cpu")
        z = initial_noise(0, range(4), SHAPE).double()
        for step, timestep in enumerate(scheduler.timesteps):
            z = scheduler_step(
                scheduler, z.tanh(), timestep, z, seed=0, frames=range(4), step=step, eta=eta
            )
        return z

    torch.testing.assert_close(walk(ddim, 1.0), walk(ddpm, 0.0), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(walk(ddim, 0.5), walk(ddpm, 0.0), rtol=0.01, atol=0.01)


def test_an_eta_is_refused_where_a_scheduler_has_none() -> None:
    with pytest.raises(ConfigError, match=r"--eta 0.5: EulerDiscreteScheduler has none; drop"):
        check_eta(diffusers.EulerDiscreteScheduler(), 0.5)
    check_eta(diffusers.EulerDiscreteScheduler(), 0.0)
    check_eta(diffusers.DDIMScheduler(), 0.5)


def test_flow_matching_goes_from_unit_noise_to_the_data() -> None:
    """With the true velocity, which is noise less data, any number of steps ends at the data."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    start(scheduler, 4, "cpu")
    noise, data = (initial_noise(seed, range(3), SHAPE) for seed in (0, 1))
    z = noise * initial_sigma(scheduler)
    assert torch.equal(z, noise)
    for step, timestep in enumerate(scheduler.timesteps):
        assert scale_input(scheduler, z, timestep) is z
        z = scheduler_step(scheduler, noise - data, timestep, z, seed=0, frames=range(3), step=step)
    torch.testing.assert_close(z, data, rtol=0, atol=1e-5)


def test_other_schedulers_scale_as_they_say() -> None:
    scheduler = diffusers.EulerDiscreteScheduler()
    start(scheduler, 4, "cpu")
    z, timestep = initial_noise(0, range(3), SHAPE), scheduler.timesteps[0]
    assert initial_sigma(scheduler) == pytest.approx(float(scheduler.init_noise_sigma)) != 1.0
    scaled = scale_input(scheduler, z, timestep)
    torch.testing.assert_close(scaled, z / (scheduler.sigmas[0] ** 2 + 1) ** 0.5)


@pytest.mark.parametrize(
    "name", ["FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"]
)
def test_start_sets_the_timesteps_and_the_first_of_them(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    start(scheduler, 4, "cpu")
    assert len(scheduler.timesteps) == 4
    assert list(scheduler.timesteps) == sorted(scheduler.timesteps, reverse=True)
    assert getattr(scheduler, "begin_index", 0) == 0


def test_a_first_timestep_that_comes_twice_is_stepped_from_the_first() -> None:
    """Left to look it up by value, a scheduler takes the second, as if it began midway."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    start(scheduler, 4, "cpu")
    scheduler.timesteps[1] = scheduler.timesteps[0]
    looks_it_up = copy.deepcopy(scheduler)
    looks_it_up._begin_index = None
    z, first = initial_noise(0, range(2), SHAPE), scheduler.timesteps[0]
    stepped, midway = (
        scheduler_step(chosen, z, first, z, seed=0, frames=range(2), step=0)
        for chosen in (scheduler, looks_it_up)
    )
    sigmas = scheduler.sigmas
    torch.testing.assert_close(stepped, z * (1 + sigmas[1] - sigmas[0]))
    assert not torch.allclose(midway, stepped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latents_keep_their_type_whatever_the_models(dtype: torch.dtype) -> None:
    scheduler = diffusers.DDIMScheduler()
    start(scheduler, 4, "cpu")
    z = initial_noise(0, range(2), SHAPE).to(dtype)
    stepped = scheduler_step(
        scheduler, z.bfloat16(), scheduler.timesteps[0], z, seed=0, frames=range(2), step=0
    )
    assert stepped.dtype == dtype


def test_steps_that_a_scheduler_cannot_take_are_told_of() -> None:
    with pytest.raises(ModelError, match=r"PNDMScheduler cannot take 2 steps .*--num-inference"):
        check_splittable(diffusers.PNDMScheduler(), 2)
