"""One run of a tiny Wan model on any communicator, so that threads and processes run alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.distributed.harness import forward_on, on_threads
from tests.tiny_wan import FIRST, SCHEDULERS, tiny_transformer, tiny_wan_pipe
from video_infinity.adapters import Adapter
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator
from video_infinity.config import Request
from video_infinity.engine import ClipRun
from video_infinity.plan import Plan, clips_of_lengths
from video_infinity.planning import make_plan
from video_infinity.preflight import prepare
from video_infinity.progress import silent
from video_infinity.timeline import as_timeline

NUM_FRAMES, LATENT_FRAMES = 241, 61
PROMPTS_OVER_TIME = [
    {"start": 0, "prompt": "a b c"},
    {"start": 57, "prompt": "x y", "transition": 60},
    {"start": 170, "prompt": "q"},
]
SECOND = "three layers, patches of four"
WRONG_IS_BEYOND = 1e-2
"""What a wrong formula must exceed, a hundred times the tolerance."""


@dataclass(frozen=True)
class Case:
    """What is generated; `options` are those of the command line.

    decodes  whether pictures are made too: they depend on nothing else that a case sets
    """

    transformer: str = FIRST
    scheduler: str = "UniPC"
    two_experts: bool = False
    timeline: Any = "a b c"
    options: Mapping[str, Any] = field(default_factory=dict)
    clip_lengths: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    decodes: bool = False


CASES: dict[str, Case] = {
    "dual scope": Case(options={"local_frames": 3, "global_frames": 5}, decodes=True),
    "no global context, second shape": Case(
        transformer=SECOND, options={"local_frames": 2, "global_frames": 0}
    ),
    "rotating global context": Case(
        options={"local_frames": 3, "global_frames": 5, "global_rule": "rotating"}
    ),
    "bias that switches": Case(
        options={
            "local_frames": 3,
            "global_frames": 5,
            "local_bias": 2.0,
            "global_bias": 3.0,
            "bias_switch": 900,
        }
    ),
    "prompts over time, second shape": Case(
        transformer=SECOND,
        timeline=PROMPTS_OVER_TIME,
        options={"local_frames": 3, "global_frames": 5},
    ),
    "halo wider than a clip": Case(
        options={"local_frames": 33, "global_frames": 3}, clip_lengths={5: (9, 30, 2, 8, 12)}
    ),
    "no local neighbours": Case(options={"local_frames": 0, "global_frames": 4}),
    "uneven clips": Case(
        options={"local_frames": 3, "global_frames": 5},
        clip_lengths={2: (1, 60), 3: (50, 1, 10), 5: (1, 1, 37, 2, 20)},
        decodes=True,
    ),
    "two experts, Euler, prompts over time": Case(
        scheduler="Euler",
        two_experts=True,
        timeline=PROMPTS_OVER_TIME,
        options={
            "local_frames": 8,
            "global_frames": 4,
            "global_rule": "rotating",
            "guidance_scale_2": 1.5,
        },
        decodes=True,
    ),
}

ON_PROCESSES = ("bias that switches", "uneven clips", "two experts, Euler, prompts over time")
"""Cases that run again over real processes."""


def request_of(case: Case, **more: Any) -> Request:
    timeline = case.timeline
    prompt, entries = (timeline, None) if isinstance(timeline, str) else (None, timeline)
    options = {
        "num_frames": NUM_FRAMES,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "negative_prompt": "d",
        "height": 32,
        "width": 32,
    }
    return Request.from_options(as_timeline(prompt, entries), {**options, **case.options, **more})


def load(case: Case, rank: int) -> Adapter:
    """The model as a rank holds it: the text encoder is on rank 0 alone."""
    pipe: Any = tiny_wan_pipe(
        case.transformer, SCHEDULERS[case.scheduler](), two_experts=case.two_experts
    )
    if rank:
        pipe.text_encoder = pipe.tokenizer = None
    return adapter_of(pipe)


def run_of(case: Case, comm: Communicator, adapter: Adapter, **more: Any) -> ClipRun:
    """This rank's run, about to begin."""
    request = prepare(request_of(case, **more), adapter.facts, comm.size)
    plan = make_plan(request, adapter.facts, comm.size)
    lengths = case.clip_lengths.get(comm.size)
    if lengths is not None:
        plan = Plan(clips_of_lengths(lengths), plan.scopes)
    return ClipRun(request, adapter, comm, plan, silent)


def run_case(
    case: Case, comm: Communicator, adapter: Adapter, **more: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's final latents [C, F, H, W]; on rank 0 the whole video's frames, if made."""
    run = run_of(case, comm, adapter, **more)
    latents, pieces = run.denoise(), [torch.empty(0)]
    if case.decodes:
        pieces.clear()
        run.deliver_frames(latents, pieces.append)
    return latents[0], torch.cat(pieces) if pieces else torch.empty(0)


def on_ranks(case: Case, size: int, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole video from ranks as threads: latents [C, F, H, W] and frames [P, H, W, 3]."""
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


def predict_on_ranks(plan: Plan, z_BCFHW: torch.Tensor, transformer: str = FIRST) -> torch.Tensor:
    """One pass over a whole video, on as many ranks as the plan has; see `text_of`."""
    parts = on_threads(
        plan.num_ranks,
        lambda rank: load(Case(transformer), rank),
        lambda comm, adapter: forward_on(comm, adapter, plan, z_BCFHW),
    )
    return torch.cat(parts, 2)


def predict_whole(z_BCFHW: torch.Tensor, transformer: str = FIRST) -> torch.Tensor:
    """The same pass by the unmodified transformer."""
    with torch.inference_mode():
        return tiny_transformer(transformer)(
            z_BCFHW,
            torch.full((len(z_BCFHW),), 500),
            text_of(z_BCFHW),
            return_dict=False,
        )[0]


def text_of(z_BCFHW: torch.Tensor) -> torch.Tensor:
    """Text states [B, S, D], those of `harness.forward_on`."""
    return torch.linspace(-1, 1, len(z_BCFHW) * 3 * 16).view(-1, 3, 16)
