"""Guidance and one scheduler step, on a span of frames, with noise keyed by frame and step.

A scheduler sees latents as [F, C, H, W], frames as its batch, as diffusers' own text-to-video
pipeline hands them over. Then whatever it draws or thresholds, it does per frame.

Legend: B batch, C channels, F frames, H height, W width
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from video_infinity.errors import ConfigError, ModelError
from video_infinity.noise import frame_generator


@dataclass(frozen=True)
class GuidanceSchedule:
    """The guidance scale by noise level: `scale`, and `low_noise_scale` below the boundary.

    boundary  training timestep where a model's second expert takes over; None if it has none
    """

    scale: float
    low_noise_scale: float | None = None
    boundary: float | None = None

    def at(self, noise_level: float) -> float:
        if self.boundary is None or self.low_noise_scale is None or noise_level >= self.boundary:
            return self.scale
        return self.low_noise_scale


def guide(prediction_BCFHW: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance over a batch of (unconditional, conditional).

    Returns [1, C, F, H, W]; a batch of one is returned as it is.
    Source: Ho & Salimans (2022), equation 6, with guidance_scale = 1 + w.
    """
    if prediction_BCFHW.shape[0] == 1:
        return prediction_BCFHW
    unconditional, conditional = prediction_BCFHW.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def start(scheduler: Any, num_inference_steps: int, device: torch.device | str) -> None:
    """Set a fresh scheduler's timesteps, its first step being the first of them."""
    scheduler.set_timesteps(num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def initial_sigma(scheduler: Any) -> float:
    """What unit noise is multiplied with; flow matching starts from unit noise itself."""
    return float(getattr(scheduler, "init_noise_sigma", 1.0))


def scale_input(scheduler: Any, z_BCFHW: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Latents as the denoiser wants them; flow matching leaves them alone."""
    if not hasattr(scheduler, "scale_model_input"):
        return z_BCFHW
    return cast(torch.Tensor, scheduler.scale_model_input(z_BCFHW, timestep))


def scheduler_step(
    scheduler: Any,
    prediction_BCFHW: torch.Tensor,
    timestep: torch.Tensor,
    z_BCFHW: torch.Tensor,
    *,
    seed: int,
    frames: Sequence[int],
    step: int,
    eta: float = 0.0,
) -> torch.Tensor:
    """One step of a diffusers scheduler on the given latent frames.

    What it draws comes from one generator per (seed, frame, step). Returns z, as z_BCFHW.
    eta  of Song et al., Denoising Diffusion Implicit Models (2021), equation 16; see `check_eta`
    """
    options: dict[str, Any] = {"eta": eta} if eta else {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = [frame_generator(seed, frame, step) for frame in frames]
    prediction_FCHW, z_FCHW = (
        x[0].transpose(0, 1).contiguous() for x in (prediction_BCFHW.to(z_BCFHW.dtype), z_BCFHW)
    )
    stepped = scheduler.step(prediction_FCHW, timestep, z_FCHW, return_dict=False, **options)[0]
    return cast(torch.Tensor, stepped.transpose(0, 1)[None])


def begun_at(scheduler: Any, step: int) -> Any:
    """A copy of a scheduler that has taken no step, whose first step will be `step`."""
    begun = copy.deepcopy(scheduler)
    if hasattr(begun, "set_begin_index"):
        begun.set_begin_index(step)
    return begun


def noised(
    scheduler: Any, clean_1CFHW: torch.Tensor, noise_1CFHW: torch.Tensor, step: int
) -> torch.Tensor:
    """Clean latents as they would be before a step, with the given unit noise.

    Raises ModelError for a scheduler that cannot say.
    """
    add: Any = getattr(scheduler, "add_noise", None)
    scale: Any = getattr(scheduler, "scale_noise", None)
    if add is None and scale is None:
        raise ModelError(
            f"{type(scheduler).__name__} cannot add noise to frames that are known, which this "
            "method needs; choose another scheduler, such as DDIMScheduler"
        )
    begun = begun_at(scheduler, step)
    if hasattr(begun, "_step_index"):
        begun._step_index = None  # else the step that it is at would count, not where it begins
    timestep = begun.timesteps[step : step + 1]
    if add is not None:
        return cast(torch.Tensor, begun.add_noise(clean_1CFHW, noise_1CFHW, timestep))
    return cast(torch.Tensor, begun.scale_noise(clean_1CFHW, timestep, noise_1CFHW))


def check_eta(scheduler: Any, eta: float) -> None:
    """Raise ConfigError for a scheduler that has no eta, unless that is 0."""
    if eta and "eta" not in inspect.signature(scheduler.step).parameters:
        raise ConfigError(
            f"--eta {eta:g}: {type(scheduler).__name__} has none; drop the flag (it is for models "
            "with a DDIMScheduler)"
        )


def check_splittable(scheduler: Any, num_inference_steps: int, eta: float = 0.0) -> None:
    """Raise ModelError, by name, for a scheduler that cannot be split over frames.

    Two frames are stepped together and one by one with the same draws: a scheduler that draws
    or thresholds across frames, or from a hidden source, gives something else.
    """
    z = torch.linspace(-2.0, 3.0, 2 * 8).view(1, 2, 2, 2, 2)
    try:
        together = _walk(copy.deepcopy(scheduler), z, (0, 1), num_inference_steps, eta)
        apart = [
            _walk(copy.deepcopy(scheduler), z[:, :, i : i + 1], (i,), num_inference_steps, eta)
            for i in (0, 1)
        ]
    except (ValueError, IndexError) as error:
        raise ModelError(
            f"{type(scheduler).__name__} cannot take {num_inference_steps} steps ({error}); "
            "choose another --num-inference-steps"
        ) from error
    if not torch.allclose(together, torch.cat(apart, 2), rtol=1e-4, atol=1e-4, equal_nan=True):
        raise ModelError(
            f"{type(scheduler).__name__} draws or thresholds across frames, which cannot be "
            "split over ranks; choose another scheduler, such as DPMSolverMultistepScheduler"
        )


def _walk(
    scheduler: Any,
    z_BCFHW: torch.Tensor,
    frames: Sequence[int],
    num_inference_steps: int,
    eta: float,
) -> torch.Tensor:
    start(scheduler, num_inference_steps, "cpu")
    for step, timestep in enumerate(scheduler.timesteps):
        prediction = torch.sin(scale_input(scheduler, z_BCFHW, timestep))
        z_BCFHW = scheduler_step(
            scheduler, prediction, timestep, z_BCFHW, seed=0, frames=frames, step=step, eta=eta
        )
    return z_BCFHW
