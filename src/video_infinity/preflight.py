"""Everything that can be found wrong before a process is spawned or a weight is read."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from video_infinity.adapters import ModelFacts
from video_infinity.config import Request, chosen, resolve
from video_infinity.errors import ConfigError, PlanError
from video_infinity.latents import check_latents
from video_infinity.mesh import mesh_of, parse_axes
from video_infinity.output import FrameSink, check_new_file, open_sink
from video_infinity.peers import METHODS
from video_infinity.planning import make_plan


def resolve_device(device: str) -> str:
    """ "auto" as "cuda" where there is a GPU, else "cpu". Raises ConfigError for a missing GPU."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ConfigError("--device cuda: this machine has no usable GPU; use --device cpu or auto")
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    return device


def resolve_ranks(nproc_per_node: int | None, device: str, parallel: str | None = None) -> int:
    """Ranks on this machine: as asked, as many as a mesh has, else one per GPU, else one.

    Raises ConfigError for more ranks than GPUs.
    """
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    axes = parse_axes(parallel) if parallel is not None else {}
    if nproc_per_node is None and "clip" in axes:
        nproc_per_node = axes["clip"] * axes.get("cfg", 1)
    if nproc_per_node is None and "cfg" in axes and not gpus:
        nproc_per_node = axes["cfg"]
    if nproc_per_node is not None and gpus and nproc_per_node > gpus:
        raise ConfigError(
            f"--nproc-per-node {nproc_per_node}: this machine has {gpus} GPUs, one per rank; "
            f"use {gpus} or fewer"
        )
    return nproc_per_node or max(1, gpus)


def prepare(request: Request, facts: ModelFacts, num_ranks: int) -> Request:
    """The request with the model's defaults filled in, found possible on that many ranks.

    Raises UserError for what the model cannot do, for frames that do not fill the ranks, and
    for a latents file that does not fit.
    """
    asked, request = request, resolve(request, facts.defaults)
    if request.model.offload and request.model.device == "cpu":
        raise ConfigError("--offload brings weights to a GPU, and --device is cpu; drop it")
    height, width = chosen(request.video.height), chosen(request.video.width)
    only = facts.defaults
    if facts.fixed_size and (height, width) != (only.height, only.width):
        raise ConfigError(
            f"--height {height} --width {width}: {facts.name} makes pictures of "
            f"{only.height} by {only.width} alone; drop both flags"
        )
    for name, size in (("height", height), ("width", width)):
        multiple = facts.size_multiple
        if size % multiple:
            low = max(multiple, size // multiple * multiple)
            raise ConfigError(
                f"--{name} {size}: {facts.name} makes multiples of {multiple}; "
                f"the nearest are {low} and {low + multiple}"
            )
    num_latent_frames = facts.num_latent_frames(chosen(request.video.num_frames))
    if num_latent_frames < num_ranks:
        raise PlanError(
            f"--num-frames {request.video.num_frames} is {num_latent_frames} latent frames, fewer "
            f"than {num_ranks} ranks: each needs one; ask for more frames or fewer ranks"
        )
    if METHODS[request.how.method].frame_timesteps and not facts.frame_timesteps:
        raise ConfigError(
            f"--method {request.how.method} gives every frame a timestep of its own, and "
            f"{facts.name} takes one for all; choose another method"
        )
    if request.how.conditioning == "clean" and not facts.frame_timesteps:
        raise ConfigError(
            "--conditioning clean gives known frames a timestep of their own, and "
            f"{facts.name} takes one for all; use --conditioning replacement"
        )
    if request.how.front_frames and not facts.frame_timesteps:
        raise ConfigError(
            f"--front-frames {request.how.front_frames} gives every frame a timestep of its own, "
            f"and {facts.name} takes one for all; drop it"
        )
    request = conditioned(request, facts)
    if asked.how.front_frames is None and asked.how.front_span is None:
        request = _short_case(request, num_latent_frames)
    _check_mesh(request, num_ranks)
    make_plan(request, facts, num_ranks)
    _check_second_guidance(request, facts)
    if request.video.negative_prompt and chosen(request.video.guidance_scale) <= 1:
        raise ConfigError(
            f"--negative-prompt has no effect at --guidance-scale "
            f"{request.video.guidance_scale}; raise that above 1, or drop the prompt"
        )
    if request.video.initial_latents is not None:
        shape_CHW = facts.latent_shape_CHW(height, width)
        check_latents(request.video.initial_latents, (num_latent_frames, *shape_CHW))
    return request


def conditioned(request: Request, facts: ModelFacts) -> Request:
    """With known frames clean where the model was trained on that, and else by replacement."""
    how = request.how
    if "conditioning" not in how.reads or how.conditioning is not None:
        return request
    told = facts.knows_frames and facts.frame_timesteps
    return replace(request, how=replace(how, conditioning="clean" if told else "replacement"))


def _short_case(request: Request, num_latent_frames: int) -> Request:
    """Without the model's own fronts where a local scope covers the video, so that what comes out
    is what the unmodified model makes."""
    if not request.how.front_frames or chosen(request.scopes.local_frames) < num_latent_frames - 1:
        return request
    return replace(request, how=replace(request.how, front_frames=0, front_span=None))


def _check_mesh(request: Request, num_ranks: int) -> None:
    run, guided = request.run, chosen(request.video.guidance_scale) > 1
    mesh = mesh_of(run.parallel, num_ranks)
    if mesh.cfg > 1 and not guided:
        raise ConfigError(
            f"--parallel {run.parallel} splits the branches of guidance, and there is one at "
            f"--guidance-scale {request.video.guidance_scale}; raise that above 1, or use cfg=1"
        )
    if run.sequential_guidance and (mesh.cfg > 1 or not guided):
        raise ConfigError(
            "--sequential-guidance has no effect where a rank has one branch alone "
            "(cfg=2, or a guidance scale of 1 and below); drop it"
        )


def _check_second_guidance(request: Request, facts: ModelFacts) -> None:
    scale_2 = request.video.guidance_scale_2
    if scale_2 is None:
        return
    if facts.expert_boundary is None:
        raise ConfigError(
            f"--guidance-scale-2 {scale_2}: {facts.name} has one denoiser; drop the flag "
            "(it is for models with a second expert for low noise, such as Wan2.2 A14B)"
        )
    if chosen(request.video.guidance_scale) <= 1:
        raise ConfigError(
            f"--guidance-scale-2 {scale_2} has no effect at --guidance-scale "
            f"{request.video.guidance_scale}; raise that above 1, or drop the flag"
        )


def video_sink(request: Request) -> FrameSink:
    """The sink of a prepared request; nothing is written before it is entered.

    Raises OutputError for a destination, a size or a frame rate that cannot be written.
    """
    output, video = request.output, request.video
    return open_sink(
        chosen(output.output),
        fps=chosen(output.fps),
        width=chosen(video.width),
        height=chosen(video.height),
        overwrite=output.overwrite,
    )


def check_destinations(request: Request) -> None:
    """Raise OutputError for any destination of a request that could not be written."""
    video_sink(request)
    output = request.output
    sides = {"--save-latents": output.save_latents, "--report": output.report}
    for name, path in sides.items():
        if path is not None:
            check_new_file(path, overwrite=output.overwrite, what=name)
    named = [p.resolve() for p in (chosen(output.output), *sides.values()) if p is not None]
    if len(set(named)) < len(named):
        same = next(path for path in named if named.count(path) > 1)
        raise ConfigError(
            f"{same} is named twice; --output, --save-latents and --report must be different files"
        )


def method_warnings(request: Request, facts: ModelFacts) -> list[str]:
    """A line for a method that wants what a model was not trained for."""
    how = request.how
    clean = how.method == "masked-continuation" or how.conditioning == "clean"
    if not clean or facts.knows_frames:
        return []
    original = "Open-Sora" if how.method == "masked-continuation" else "StreamingT2V"
    return [
        f"{facts.name} was not trained to go on from frames that it knows: --method "
        f"{how.method} is a baseline of the scheme, not of {original}"
    ]


def prompt_warnings(request: Request, facts: ModelFacts) -> list[str]:
    """A line for every prompt with words outside of a model's closed vocabulary."""
    known = set(facts.vocabulary)
    if not known:
        return []
    lines = []
    for prompt in dict.fromkeys((*request.timeline.prompts, request.video.negative_prompt)):
        unknown = [w for w in dict.fromkeys(re.findall(r"\w+", prompt.lower())) if w not in known]
        if unknown:
            lines.append(
                f"{facts.name} does not know {', '.join(unknown)} in {prompt!r}; "
                f"its words: {', '.join(facts.vocabulary)}"
            )
    return lines
