"""What a run directory says of its run: the request, and whether it can be gone on with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from video_infinity.adapters import PRESETS, ModelFacts, model_fingerprint
from video_infinity.config import ModelSpec, Request, chosen
from video_infinity.errors import ResumeError, UserError
from video_infinity.planning import make_plan
from video_infinity.rundir import RunDir
from video_infinity.sealed import file_digest
from video_infinity.timeline import PromptTimeline

PACKAGES = ("video-infinity", "torch", "diffusers")
SUFFIX = ".run"
_RUN_FREE = (
    *("quiet", "log_json", "timeout_s", "checkpoint_every", "max_restarts", "nproc_per_node"),
    *("parallel", "sequential_guidance", "offload", "compile_blocks"),
)


def weights_digests(model: str) -> dict[str, str]:
    """Digests of the files that hold a model's weights, by name; not of its defaults.

    Raises ModelError for a model that is not there.
    """
    files = model_fingerprint(ModelSpec(model))
    return {name: digest for name, digest in files.items() if _holds_weights(name)}


def defaults_digests(model: str) -> dict[str, str]:
    """Digests of a model's other files, by name: its defaults, schedulers and vocabularies.

    Raises ModelError for a model that is not there.
    """
    files = model_fingerprint(ModelSpec(model))
    return {name: digest for name, digest in files.items() if not _holds_weights(name)}


def _holds_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def run_dir_of(request: Request) -> RunDir:
    """Where a request's run is kept: where it says, else beside its output."""
    output = chosen(request.output.output)
    return RunDir(request.run.run_dir or output.with_name(output.name + SUFFIX))


def manifest_of(request: Request, facts: ModelFacts, num_ranks: int) -> dict[str, Any]:
    """A prepared request as a run directory keeps it, with what else the video depends on."""
    plan = make_plan(request, facts, num_ranks)
    settings = _absolute(request).settings()
    inputs = settings["initial_latents"]
    return {
        "request": {"timeline": request.timeline.to_json(), "settings": settings},
        "versions": _versions(),
        "model": model_fingerprint(request.model),
        "inputs": {inputs: file_digest(Path(inputs))} if inputs is not None else {},
        "layout": {
            "num_latent_frames": plan.num_latent_frames,
            "latent_shape_CHW": facts.latent_shape_CHW(
                chosen(request.video.height), chosen(request.video.width)
            ),
            "ranks": num_ranks,
            "clips": [[clip.start, clip.stop] for clip in plan.clips],
        },
        "kept": request.run.run_dir is not None,
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _absolute(request: Request) -> Request:
    """The request with every path from the root, so that it means the same from anywhere."""
    output, video = request.output, request.video
    return replace(
        request,
        model=_absolute_model(request.model),
        video=replace(video, initial_latents=_rooted(video.initial_latents)),
        output=replace(
            output,
            output=_rooted(output.output),
            save_latents=_rooted(output.save_latents),
            report=_rooted(output.report),
        ),
        run=replace(request.run, run_dir=_rooted(request.run.run_dir)),
    )


def _absolute_model(model: ModelSpec) -> ModelSpec:
    def rooted(name: str | None) -> str | None:
        path = Path(name or "").expanduser()
        return str(path.absolute()) if name and path.is_dir() else name

    base = model.model if model.model in PRESETS else rooted(model.model)
    assert base is not None
    return replace(model, model=base, unet=rooted(model.unet), lora=rooted(model.lora))


def _rooted(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def request_of(manifest: Mapping[str, Any], options: Mapping[str, Any]) -> Request:
    """The request of a run, to be gone on with: its files may be replaced.

    options  of this time: ranks, timeout, and how it tells of itself
    Raises ResumeError if the manifest holds no request, UserError for an option out of range.
    """
    try:
        asked = manifest["request"]
        timeline = PromptTimeline.from_entries(asked["timeline"])
        settings = dict(asked["settings"])
        Request.from_options(timeline, settings)
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"the manifest holds no request of ours: {error}") from error
    settings |= dict.fromkeys(("nproc_per_node", "parallel", "quiet", "log_json"))
    return Request.from_options(timeline, settings | {"overwrite": True} | dict(options))


def check_same(manifest: Mapping[str, Any], request: Request) -> None:
    """Raise ResumeError, naming what differs, if a run's model or input is not what it was."""
    model = manifest["model"]
    now = model_fingerprint(request.model)
    differing = sorted(name for name in model.keys() | now if model.get(name) != now.get(name))
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ResumeError(
            f"the model {request.model.model} is not the one that the run began with: "
            f"{differing[0]}{more} differs; give that model back, or generate anew"
        )
    latents = request.video.initial_latents
    if latents is not None:
        try:
            same = file_digest(latents) == manifest["inputs"].get(str(latents.absolute()))
        except OSError:
            same = False
        if not same:
            raise ResumeError(
                f"{latents} is not the file that the run began with; put that back, or generate "
                "anew"
            )


def check_request(manifest: Mapping[str, Any], request: Request) -> None:
    """Raise ResumeError, naming what differs, unless a request asks for the manifest's video."""
    before, now = manifest["request"], _absolute(request)
    if before["timeline"] != now.timeline.to_json():
        raise ResumeError("the prompts differ from those that the run began with; generate anew")
    settings = now.settings()
    for name, value in before["settings"].items():
        if name not in _RUN_FREE and settings.get(name) != value:
            raise ResumeError(
                f"--{name.replace('_', '-')} is {settings.get(name)!r}, and the run in its "
                f"directory began with {value!r}; give that, or generate anew with --overwrite"
            )


def version_warnings(manifest: Mapping[str, Any]) -> list[str]:
    """A line if the run began on other versions of what computes it."""
    before, now = manifest.get("versions", {}), _versions()
    differing = [f"{k} {before.get(k)} then, {v} now" for k, v in now.items() if before.get(k) != v]
    if not differing:
        return []
    return [f"the run began on other versions: {'; '.join(differing)}; frames may differ slightly"]
