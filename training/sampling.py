"""Sampling with diffusers' modules, many prompts at once."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, UNet3DConditionModel
from torch import Tensor

NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.016,
    "prediction_type": "v_prediction",
}


def build_scheduler() -> DDIMScheduler:
    """The scheduler that the embedded model is exported with."""
    return DDIMScheduler(
        **NOISE, clip_sample=False, thresholding=False, timestep_spacing="trailing"
    )


@torch.no_grad()
def sample(
    unet: UNet3DConditionModel,
    scheduler: DDIMScheduler,
    text_BTD: Tensor,
    empty_1TD: Tensor,
    latents_BCFhw: Tensor,
    num_inference_steps: int,
    guidance_scale: float,
    eta: float,
    generators: list[torch.Generator],
) -> Tensor:
    """Denoise unit noise as TextToVideoSDPipeline does, with the noise of one generator a clip.

    text_BTD, empty_1TD   text encoder's outputs for the prompts and for the empty prompt
    latents_BCFhw         unit Gaussian noise
    Returns latents of the same shape.
    """
    scheduler.set_timesteps(num_inference_steps)
    both_2BTD = torch.cat([empty_1TD.expand_as(text_BTD), text_BTD])
    latents: Any = latents_BCFhw * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        empty, conditional = unet(model_input, timestep, both_2BTD).sample.chunk(2)
        guided = empty + guidance_scale * (conditional - empty)
        latents = scheduler.step(
            guided, timestep, latents, eta=eta, generator=generators
        ).prev_sample
    return torch.as_tensor(latents)
