"""One denoise of a tiny model on any communicator, so that threads and processes run alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch

from tests.tiny import FIRST, tiny_pipe
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.config import Request, resolve
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.engine import ClipRun, make_plan
from video_infinity.pipeline import as_timeline
from video_infinity.plan import Plan, clips_of_lengths
from video_infinity.progress import silent

NUM_FRAMES = 37
PROMPTS_OVER_TIME = [
    {"start": 0, "prompt": "a b c"},
    {"start": 9, "prompt": "d e", "transition": 8},
    {"start": 25, "prompt": "f"},
]
TOLERANCE = 1e-4
"""Promise 1 and 3: largest difference over the standard deviation, in float32."""


@dataclass(frozen=True)
class Case:
    """What is generated; `options` are those of the command line."""

    unet: str = FIRST
    scheduler: str = "DDIMScheduler"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    timeline: Any = "a b c"
    options: Mapping[str, Any] = field(default_factory=dict)
    clip_lengths: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "dual scope": Case(options={"local_frames": 3, "global_frames": 5}),
    "no global context, second shape": Case(
        unet="plain last level, two layers", options={"local_frames": 2, "global_frames": 0}
    ),
    "bias that switches": Case(
        options={
            "local_frames": 3,
            "global_frames": 5,
            "local_bias": 2.0,
            "global_bias": 3.0,
            "bias_switch": 500,
        }
    ),
    "prompts over time": Case(
        timeline=PROMPTS_OVER_TIME, options={"local_frames": 3, "global_frames": 5}
    ),
    "halo wider than a clip": Case(options={"local_frames": 17, "global_frames": 3}),
    "no local neighbours": Case(options={"local_frames": 0, "global_frames": 4}),
    "multistep": Case(
        scheduler="DPMSolverMultistepScheduler", options={"local_frames": 3, "global_frames": 5}
    ),
    "stochastic multistep": Case(
        scheduler="DPMSolverMultistepScheduler",
        scheduler_options={"algorithm_type": "sde-dpmsolver++"},
        timeline=PROMPTS_OVER_TIME,
        options={"local_frames": 3, "global_frames": 5, "global_bias": 1.0},
    ),
    "ancestral": Case(
        scheduler="EulerAncestralDiscreteScheduler",
        options={"local_frames": 3, "global_frames": 5},
    ),
    "uneven clips": Case(
        options={"local_frames": 3, "global_frames": 5},
        clip_lengths={2: (1, 36), 3: (30, 1, 6), 5: (1, 1, 20, 2, 13)},
    ),
}

ON_PROCESSES = (
    "bias that switches",
    "halo wider than a clip",
    "stochastic multistep",
    "uneven clips",
)
"""Cases that run again over real processes."""


def request_of(case: Case, **more: Any) -> Request:
    timeline = case.timeline
    prompt, entries = (timeline, None) if isinstance(timeline, str) else (None, timeline)
    options = {"num_frames": NUM_FRAMES, "num_inference_steps": 3, "guidance_scale": 3.0}
    return Request.from_options(as_timeline(prompt, entries), {**options, **case.options, **more})


def pipe_of(case: Case) -> Any:
    scheduler = getattr(diffusers, case.scheduler)(**case.scheduler_options)
    return tiny_pipe(case.unet, scheduler)


def run_case(case: Case, comm: Communicator, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's final latents [C, F, H, W], and on rank 0 the whole video's frames."""
    adapter = adapter_of(pipe_of(case))
    request = resolve(request_of(case, **more), adapter.facts.defaults)
    plan = make_plan(request, request.video.num_frames, comm.size)
    lengths = case.clip_lengths.get(comm.size)
    if lengths is not None:
        plan = Plan(clips_of_lengths(lengths), plan.scopes)
    run = ClipRun(request, adapter, comm, plan, silent)
    latents = run.denoise()
    pieces: list[torch.Tensor] = []
    run.deliver_frames(latents, pieces.append)
    return latents[0], torch.cat(pieces) if pieces else torch.empty(0)


def reference(case: Case, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on one rank: latents [C, F, H, W] and frames [P, H, W, 3]."""
    return run_case(case, SingleCommunicator(), **more)


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over all elements, over the standard deviation of b."""
    return float((a - b).abs().max() / b.std())


def forward_on(comm: Communicator, unet: Any, plan: Plan, z_BCFHW: torch.Tensor) -> torch.Tensor:
    """One pass of the denoiser over this rank's clip of z, inside the context."""
    adapter = adapter_of(_PipeOf(unet))
    clip = plan.clips[comm.rank]
    text_BSD = torch.linspace(-1, 1, len(z_BCFHW) * 3 * 16).view(-1, 3, 16)
    text_NSD = text_BSD.repeat_interleave(len(clip), 0)
    context = ClipContext(comm, plan, text_NSD=text_NSD)
    with torch.inference_mode(), installed(adapter.sites(), context):
        z_clip = z_BCFHW[:, :, clip.start : clip.stop]
        return adapter.denoise(z_clip, torch.tensor(500), text_BSD)


@dataclass
class _PipeOf:
    """As much of a pipeline as a denoiser alone needs."""

    unet: Any
    vae: Any = field(default_factory=lambda: tiny_pipe().vae)
    text_encoder: Any = field(default_factory=lambda: tiny_pipe().text_encoder)
    tokenizer: Any = None
    scheduler: Any = None


def save_rank(path: Path, results: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, (latents, frames) in results.items():
        tensors[f"{name}/latents"], tensors[f"{name}/frames"] = latents.contiguous(), frames
    save_file(tensors, path)
