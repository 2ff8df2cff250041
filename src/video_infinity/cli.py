"""The command line: a thin front end. Imports what a command needs only when it runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_INTERRUPTED = 130

OPTIONS: dict[str, tuple[type, str]] = {
    "model": (str, "Embedded name, preset, directory or hub id in diffusers format (demo)."),
    "unet": (str, "Directory or hub id of another denoiser in its place."),
    "revision": (str, "Revision of the hub repository."),
    "lora": (str, "Directory or hub id of low-rank updates."),
    "timeline": (Path, "YAML or JSON file of prompts over time, in pixel frames."),
    "num_frames": (int, "Pixel frames (128)."),
    "seed": (int, "Seed (0)."),
    "num_inference_steps": (int, "Denoising steps."),
    "guidance_scale": (float, "Classifier-free guidance; off at 1 and below."),
    "negative_prompt": (str, "What not to show."),
    "height": (int, "Pixels."),
    "width": (int, "Pixels."),
    "fps": (float, "Frames per second of playback."),
    "fps_condition": (int, "Frame rate that VideoCrafter2's denoiser is told (24)."),
    "local_frames": (int, "Latent frames on each side in the local scope."),
    "global_frames": (int, "Latent frames in the global context; 0 for none."),
    "local_bias": (float, "Added to local logits at and below the switch; 0 is off."),
    "global_bias": (float, "Added to global logits above the switch; 0 is off."),
    "bias_switch": (float, "Training timestep, 0 to 1000."),
    "nproc_per_node": (str, "Ranks on this machine, or auto: one per GPU, else 1."),
    "timeout": (float, "Longest wait for another rank, in seconds (600)."),
    "method": (str, "clip-parallel, or independent: no exchange between clips."),
    "device": (str, "auto, cpu or cuda."),
    "dtype": (str, "float32, bfloat16 or float16."),
    "output": (Path, ".mp4, .webm, .gif; no suffix: a directory of PNGs (video.mp4)."),
    "save_latents": (Path, "Write the final latents, as safetensors."),
    "initial_latents": (Path, "Start from this unit noise, as safetensors."),
    "report": (Path, "Write a JSON report of the run."),
    "config": (Path, "YAML of the same names; a flag goes before it."),
    "overwrite": (bool, "Replace files that are there already."),
    "quiet": (bool, "No bar and no closing lines."),
    "log_json": (bool, "Progress as JSON lines on stderr; for `plan`, the plan as JSON."),
}
"""Every option of a request: type and help. Defaults live in config.py and with the models."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Long video from short-clip models, on as many devices as there are.",
)


def _takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command of **options the positional prompt and every option of the table."""
    parameters = [_parameter("prompt", str, typer.Argument(help="What to show."))]
    for name, (kind, help_text) in OPTIONS.items():
        spelled = "--" + name.replace("_", "-")
        parameters.append(_parameter(name, kind, typer.Option(spelled, help=help_text)))
    signature = inspect.Signature(parameters)
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameter(name: str, kind: type, declared: Any) -> inspect.Parameter:
    declared.show_default = False
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, declared],
    )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@app.command()
@_takes_request
def generate(**options: Any) -> None:
    """Generate a video of any length from text."""
    from video_infinity.command import run_generate

    run_generate(_given(options), sys.argv[1:])


@app.command()
@_takes_request
def plan(**options: Any) -> None:
    """Say how the work would be shared out: clips, scopes, memory, bytes. Generates nothing."""
    from video_infinity.command import run_plan

    run_plan(_given(options))


@app.command()
def models() -> None:
    """What is embedded, and what families of models load."""
    from video_infinity.command import run_models

    run_models()


def main() -> None:
    """Run the command; exit with 0 done, 2 the user's mistake, 1 a failed run, 130 interrupted."""
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        return int(app(standalone_mode=False) or 0)
    except KeyboardInterrupt:
        print("video-infinity: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        from video_infinity.command import report_error

        return report_error(error)
