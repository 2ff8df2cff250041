"""One denoise of a tiny model on any communicator, so that threads and processes run alike."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch

from tests.tiny import FIRST, tiny_pipe
from video_infinity.adapters import Adapter
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.comm.threads import run_ranks
from video_infinity.config import Request, resolve
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.engine import ClipRun
from video_infinity.pipeline import as_timeline
from video_infinity.plan import Plan, clips_of_lengths
from video_infinity.planning import make_plan
from video_infinity.preflight import conditioned
from video_infinity.progress import silent

T = TypeVar("T")
M = TypeVar("M")

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
    """What is generated; `options` are those of the command line.

    gain  of the random weights, see `tests.tiny.randomise`
    """

    unet: str = FIRST
    gain: float = 0.5
    dtype: torch.dtype = torch.float32
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
    "eta": Case(options={"local_frames": 3, "global_frames": 5, "eta": 1}),
    "rotating global context": Case(
        options={"local_frames": 3, "global_frames": 5, "global_rule": "rotating"}
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
    "rotating global context",
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
    return tiny_pipe(case.unet, scheduler, case.gain).to(case.dtype)


def load(case: Case, rank: int) -> Adapter:
    """The model as a rank holds it: the text encoder is on rank 0 alone."""
    pipe = pipe_of(case)
    if rank:
        pipe.text_encoder = pipe.tokenizer = None
    return adapter_of(pipe)


def on_threads(
    size: int, load: Callable[[int], M], work: Callable[[Communicator, M], T]
) -> list[T]:
    """`work` on ranks as threads, each with its own `load(rank)`; return results by rank.

    Loading is done before, one rank after the other: the loading libraries are not thread-safe.
    """
    loaded = [load(rank) for rank in range(size)]
    return run_ranks(size, lambda comm: work(comm, loaded[comm.rank]))


def run_of(case: Case, comm: Communicator, adapter: Adapter, **more: Any) -> ClipRun:
    """This rank's run, about to begin."""
    request = resolve(request_of(case, **more), adapter.facts.defaults)
    request = conditioned(request, adapter.facts)
    plan = make_plan(request, adapter.facts, comm.size)
    lengths = case.clip_lengths.get(comm.size)
    if lengths is not None:
        plan = Plan(clips_of_lengths(lengths), plan.scopes)
    return ClipRun(request, adapter, comm, plan, silent)


def run_case(
    case: Case, comm: Communicator, adapter: Adapter, **more: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's final latents [C, F, H, W], and on rank 0 the whole video's frames."""
    run = run_of(case, comm, adapter, **more)
    latents = run.denoise()
    pieces: list[torch.Tensor] = []
    run.deliver_frames(latents, pieces.append)
    return latents[0], torch.cat(pieces) if pieces else torch.empty(0)


def reference(case: Case, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on one rank: latents [C, F, H, W] and frames [P, H, W, 3]."""
    return run_case(case, SingleCommunicator(), load(case, 0), **more)


def on_ranks(case: Case, size: int, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on ranks as threads."""
    results = on_threads(
        size,
        lambda rank: load(case, rank),
        lambda comm, adapter: run_case(case, comm, adapter, **more),
    )
    return torch.cat([latents for latents, _ in results], 1), results[0][1]


def latents_on_ranks(case: Case, size: int, **more: Any) -> torch.Tensor:
    """The whole video's final latents alone, from ranks as threads."""
    parts = on_threads(
        size,
        lambda rank: load(case, rank),
        lambda comm, adapter: run_of(case, comm, adapter, **more).denoise()[0],
    )
    return torch.cat(parts, 1)


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over all elements, over the standard deviation of b."""
    return float((a - b).abs().max() / b.std())


def around(unet: Any) -> Adapter:
    """The adapter of a denoiser alone, for `forward_on`."""
    return adapter_of(_PipeOf(unet))


def forward_on(
    comm: Communicator, adapter: Adapter, plan: Plan, z_BCFHW: torch.Tensor
) -> torch.Tensor:
    """One pass of the denoiser over this rank's clip of z, inside the context."""
    clip = plan.clips[comm.rank]
    text_BSD = torch.linspace(-1, 1, len(z_BCFHW) * 3 * 16).view(-1, 3, 16)
    text = FrameText(text_BSD, tuple((row,) * len(clip) for row in range(len(text_BSD))))
    context = ClipContext(comm, plan, text)
    with torch.inference_mode(), installed(adapter.sites(), context):
        return adapter.denoise(z_BCFHW[:, :, clip.start : clip.stop], torch.tensor(500), text)


@dataclass
class _PipeOf:
    """As much of a pipeline as a denoiser alone needs."""

    unet: Any
    vae: Any = field(default_factory=lambda: tiny_pipe().vae)
    text_encoder: Any = None
    tokenizer: Any = None
    scheduler: Any = None


def save_rank(path: Path, results: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, (latents, frames) in results.items():
        tensors[f"{name}/latents"], tensors[f"{name}/frames"] = latents.contiguous(), frames
    save_file(tensors, path)


WIRES = ("gloo", "shared memory")
"""What may carry the exchange between processes on CPUs."""


def on_processes(
    worker: str, size: int, directory: Path, wire: str
) -> list[dict[str, torch.Tensor]]:
    """What the module `worker` leaves in a directory, on that many processes, by rank."""
    from safetensors.torch import load_file

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", worker, str(directory), wire],
            env=environment | {"RANK": str(rank)},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(size)
    ]
    assert [rank.wait(timeout=280) for rank in ranks] == [0] * size
    return [load_file(directory / f"{rank}.safetensors") for rank in range(size)]
