"""The public Python API, and the one place where the parts are put together."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import torch

from video_infinity.adapters import Adapter, load_model
from video_infinity.adapters.registry import adapter_of
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.config import ModelSpec, Request, chosen, unknown_option
from video_infinity.engine import ClipRun, Observer, Sink
from video_infinity.keeper import Keeper
from video_infinity.latents import LatentsWriter
from video_infinity.launch import api_world, rank_device
from video_infinity.methods import METHODS
from video_infinity.output import check_new_file
from video_infinity.planning import make_plan
from video_infinity.preflight import method_warnings, prepare, prompt_warnings, resolve_device
from video_infinity.progress import default_observer
from video_infinity.timeline import PromptTimeline, as_timeline
from video_infinity.video import Video


def run_request(
    request: Request,
    adapter: Adapter,
    comm: Communicator,
    sink: Sink,
    observer: Observer,
    load_seconds: float,
    keeper: Keeper | None = None,
) -> dict[str, Any]:
    """Carry out a prepared request on this rank; all ranks call this alike.

    sink    takes the frames, on rank 0 alone
    keeper  saves the run, and finds where to go on
    Returns the report (the same on every rank).
    """
    begin = time.perf_counter()
    plan = make_plan(request, adapter.facts, comm.size)
    run = ClipRun(request, adapter, comm, plan, observer, keeper)
    latents = run.denoise()
    save = request.output.save_latents
    if save is not None:
        _, channels, _, height, width = latents.shape
        shape_LCHW = (plan.num_latent_frames, channels, height, width)
        is_main = comm.rank == 0
        with (
            run.measures.phase("latents", observer),
            LatentsWriter(save, shape_LCHW) if is_main else nullcontext() as writer,
        ):
            run.deliver_latents(latents, writer)
    run.deliver_frames(latents, sink)
    run.measures.seconds["load"] = load_seconds
    run.measures.seconds["total"] = time.perf_counter() - begin + load_seconds
    report = _report(request, adapter, run, comm)
    if keeper is not None:
        report["checkpoints"] = {"made": keeper.num_saved, "seconds": keeper.seconds}
    return report


def _report(request: Request, adapter: Adapter, run: ClipRun, comm: Communicator) -> dict[str, Any]:
    measures, plan = run.measures, run.plan
    per_rank = comm.gather_json(
        {
            "exchanged": [asdict(tally) for tally in measures.exchanged_per_step],
            "peak": measures.peak_memory_bytes,
        }
    )
    exchanged = {
        name: [[step[name] for step in rank["exchanged"]] for rank in per_rank]
        for name in ("bytes_received", "posts", "gathers", "seconds_waited")
    }
    seconds = measures.seconds
    write = seconds.get("write", 0.0)
    return {
        "version": version("video-infinity"),
        "model": {
            "name": adapter.facts.name,
            "family": adapter.facts.family,
            "trained_frames": adapter.facts.defaults.trained_frames,
        },
        "timeline": request.timeline.to_json(),
        "seed": request.video.seed,
        "num_frames": request.video.num_frames,
        "num_latent_frames": plan.num_latent_frames,
        "ranks": comm.size,
        "clips": [[clip.start, clip.stop] for clip in run.clip_of_ranks],
        "joins": list(METHODS[request.how.method].joins(request.how, plan.num_latent_frames)),
        "settings": request.settings(),
        "seconds": {
            "load": seconds["load"],
            "encode": seconds["encode"],
            "denoise": seconds["denoise"],
            "decode": seconds["decode"] - write,
            "write": write + seconds.get("latents", 0.0),
            "total": seconds["total"],
        },
        "first_step": measures.first_step,
        "seconds_per_step": measures.seconds_per_step,
        **{f"{name}_per_step": values for name, values in exchanged.items()},
        "peak_memory_bytes": [rank["peak"] for rank in per_rank],
        "output": [
            str(path) for path in (request.output.output, request.output.save_latents) if path
        ],
    }


class VideoInfinityPipeline:
    """Text to a video of any length, on all ranks of the process group there is.

    Started by `python`, it is one rank; started by torchrun, every rank runs the same script,
    and rank 0 has the frames. Calls must be made alike on all ranks.
    """

    def __init__(
        self, adapter: Adapter, comm: Communicator | None = None, load_seconds: float = 0.0
    ) -> None:
        self.adapter = adapter
        self._comm = comm or SingleCommunicator()
        self._load_seconds = load_seconds

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "demo",
        *,
        unet: str | Path | None = None,
        revision: str | None = None,
        lora: str | Path | None = None,
        fps_condition: int | None = None,
        device: str = "auto",
        dtype: str | torch.dtype = "float32",
        offload: bool = False,
        compile: bool = False,
        timeout: float = 600.0,
    ) -> Self:
        """Load an embedded model, a preset, or a directory or hub id in diffusers format.

        timeout  longest wait for another rank, in seconds
        Raises ModelError or ConfigError, each with what to change.
        """
        begin = time.perf_counter()
        spec = ModelSpec(
            str(model),
            unet=None if unet is None else str(unet),
            revision=revision,
            lora=None if lora is None else str(lora),
            fps_condition=fps_condition,
            device=device,
            dtype=str(dtype).removeprefix("torch."),
            offload=offload,
            compile_blocks=compile,
        )
        spec = replace(spec, device=rank_device(resolve_device(device)))
        comm = api_world(torch.device(spec.device), timeout)
        adapter = load_model(spec, reads_text=comm.rank == 0)
        return cls(adapter, comm, time.perf_counter() - begin)

    @classmethod
    def from_pipe(cls, pipe: Any, *, timeout: float = 600.0) -> Self:
        """Drive the modules of a loaded diffusers pipeline, where they are, in eval mode.

        Raises ModelError if its denoiser is of no family that the engine drives.
        """
        adapter = adapter_of(pipe)
        return cls(adapter, api_world(adapter.device, timeout))

    def __call__(
        self,
        prompt: str | None = None,
        *,
        timeline: PromptTimeline | Sequence[dict[str, Any]] | str | Path | None = None,
        observer: Observer | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Video:
        """Generate a video.

        timeline  prompts over time instead of `prompt`: entries {start, prompt, transition}, or
                  a YAML or JSON file
        observer  hears of phases, steps and frames; by default a bar on rank 0's terminal
        options   GenerateOptions, by keyword; None is the default
        Returns a Video. Raises TypeError for a keyword that is no option, UserError for what
        cannot be done, RunError if the run fails. All ranks call alike; one that comes later
        than the pipeline's timeout ends the run.
        """
        _check_keywords(options)
        request = Request.from_options(as_timeline(prompt, timeline), options)
        request = prepare(request, self.adapter.facts, self._comm.size)
        output, is_main = request.output, self._comm.rank == 0
        if is_main:
            if output.save_latents is not None:
                check_new_file(output.save_latents, overwrite=output.overwrite, what="save_latents")
            facts = self.adapter.facts
            for line in prompt_warnings(request, facts) + method_warnings(request, facts):
                warnings.warn(line, stacklevel=2)
        video = Video(
            chosen(output.fps),
            chosen(request.video.height),
            chosen(request.video.width),
            is_main=is_main,
        )
        with default_observer(observer, is_main=is_main) as heard:
            video.report = run_request(
                request, self.adapter, self._comm, video.append, heard, self._load_seconds
            )
        return video


class GenerateOptions(TypedDict, total=False):
    """What a call takes, named as the command's flags, which say what each means.

    initial_latents, save_latents  safetensors files; the first must be there on every rank
    overwrite                      whether save_latents may replace a file
    """

    num_frames: int | None
    seed: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    guidance_scale_2: float | None
    eta: float | None
    negative_prompt: str | None
    height: int | None
    width: int | None
    fps: float | None
    local_frames: int | None
    global_frames: int | None
    global_rule: str | None
    local_bias: float | None
    global_bias: float | None
    bias_switch: float | None
    method: str | None
    noise: str | None
    window_frames: int | None
    stride_frames: int | None
    conditioning: str | None
    front_frames: int | None
    front_span: int | None
    without: str | None
    parallel: str | None
    sequential_guidance: bool
    initial_latents: str | Path | None
    save_latents: str | Path | None
    vae_tiling: bool
    overwrite: bool


def _check_keywords(options: Mapping[str, Any]) -> None:
    known = GenerateOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(unknown_option(name, known))
