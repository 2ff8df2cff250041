"""The command line: a thin front end. Imports what a command needs only when it runs."""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from video_infinity.errors import ConfigError
from video_infinity.failures import report_error, report_interrupt
from video_infinity.interrupts import interrupt_on_signals

OPTIONS: dict[str, tuple[str, str]] = {
    "model": ("NAME", "Embedded name, preset, directory or hub id in diffusers format (demo)."),
    "unet": ("NAME", "Directory or hub id of another denoiser in its place."),
    "revision": ("REV", "Revision of the hub repository."),
    "lora": ("NAME", "Directory or hub id of low-rank updates."),
    "timeline": ("FILE", "YAML or JSON of prompts over time, in place of PROMPT."),
    "num_frames": ("N", "Pixel frames (128; 129 for models that make 4k+1)."),
    "seed": ("N", "Seed (0)."),
    "num_inference_steps": ("N", "Denoising steps."),
    "guidance_scale": ("X", "Classifier-free guidance; off at 1 and below."),
    "guidance_scale_2": ("X", "Guidance of a second expert for low noise; as the first."),
    "eta": ("X", "Noise that every step of DDIM draws anew, 0 to 1; 1 is DDPM."),
    "negative_prompt": ("TEXT", "What not to show."),
    "height": ("N", "Pixels."),
    "width": ("N", "Pixels."),
    "fps": ("X", "Frames per second of playback."),
    "fps_condition": ("N", "Frame rate that VideoCrafter2's denoiser is told (24)."),
    "local_frames": ("N", "Latent frames on each side in the local scope."),
    "global_frames": ("N", "Latent frames in the global context; 0 for none."),
    "global_rule": ("NAME", "even, or rotating: one place on at every step (even)."),
    "local_bias": ("X", "Added to local logits at and below the switch; 0 is off."),
    "global_bias": ("X", "Added to global logits above the switch; 0 is off."),
    "bias_switch": ("X", "Training timestep, 0 to 1000."),
    "vae_tiling": ("", "Decode large pictures in tiles: less memory, slightly different."),
    "nproc_per_node": ("N|auto", "Ranks on this machine; auto: one per GPU, else 1."),
    "parallel": ("MESH", "Axes of the mesh of ranks: cfg=2,clip=4 (cfg=1)."),
    "sequential_guidance": ("", "Branches of guidance one after the other: less memory."),
    "timeout": ("S", "Longest wait for another rank, in seconds (600)."),
    "run_dir": ("DIR", "Keep checkpoints here (OUTPUT.run, removed when done)."),
    "checkpoint_every": ("N|Ns", "Steps or seconds between checkpoints, auto or never (auto)."),
    "max_restarts": ("N", "Go on by itself after so many failures of a rank (0)."),
    "method": ("NAME", "How a long video is made: clip-parallel, or a peer (docs/methods.md)."),
    "noise": ("NAME", "plain, or freenoise: the first window's, shuffled (the method's)."),
    "window_frames": ("N", "Latent frames of a method's window, clip or chunk."),
    "stride_frames": ("N", "Latent frames from one window to the next."),
    "conditioning": ("NAME", "Known frames of autoregressive: clean or replacement (the model's)."),
    "front_frames": ("N", "Latent frames that a front reaches in a step; 0: all begin together."),
    "front_span": ("N", "Latent frames, at most, that one front moves through (192)."),
    "without": ("PARTS", "Ablation: leave out conv, norm, attention, local, global or bias."),
    "device": ("NAME", "auto, cpu or cuda."),
    "dtype": ("NAME", "float32, bfloat16 or float16 (float32)."),
    "offload": ("", "Keep weights on the CPU, bring them to the GPU block by block."),
    "compile": ("", "Let torch.compile have the denoiser's repeated blocks; slow to start."),
    "output": ("FILE", ".mp4, .webm, .gif; no suffix: a directory of PNGs (video.mp4)."),
    "save_latents": ("FILE", "Write the final latents, as safetensors."),
    "initial_latents": ("FILE", "Start from this unit noise, as safetensors."),
    "report": ("FILE", "Write a JSON report of the run."),
    "config": ("FILE", "YAML of the same names; a flag goes before it."),
    "overwrite": ("", "Replace files that are there already."),
    "quiet": ("", "No bar and no closing lines."),
    "log_json": ("", "Progress as JSON lines on stderr; for `plan`, the plan as JSON."),
}
"""Every option of a request: placeholder ("" for a switch) and help. Values stay text here: what
they mean is for config.py to say. Defaults without a number here belong to the model."""

OF_A_RUN = ("resume", "status", "cancel")
"""Commands that take a run directory in the place of a request."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Long video from short-clip models, on as many devices as there are.",
)


@dataclass(frozen=True)
class Call:
    """A command line, parsed: the command and the options that were given, as text."""

    command: str
    options: dict[str, Any]

    def argv(self) -> list[str]:
        """A command line that parses to this call."""
        options = dict(self.options)
        prompt = options.pop("prompt", None)
        words, last = [self.command], []
        if self.command in OF_A_RUN:
            last = ["--", str(options.pop("run_dir"))]
        elif prompt is not None:
            last = ["--", prompt]
        for name, value in options.items():
            spelled = "--" + name.replace("_", "-")
            words.append(spelled if value is True else f"{spelled}={value}")
        return [*words, *last]


def _takes_request(command: Callable[..., Call]) -> Callable[..., Call]:
    """Give a command of **options the positional prompt and every option of the table."""
    parameters = [_parameter("prompt", list[str], typer.Argument(help="What to show."))]
    parameters += [_option(name) for name in OPTIONS]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _option(name: str) -> inspect.Parameter:
    placeholder, help_text = OPTIONS[name]
    spelled = "--" + name.replace("_", "-")
    declared = typer.Option(spelled, metavar=placeholder or None, help=help_text)
    return _parameter(name, str if placeholder else bool, declared)


def _parameter(name: str, kind: Any, declared: Any) -> inspect.Parameter:
    declared.show_default = False
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, declared],
    )


def _call(command: str, options: dict[str, Any]) -> Call:
    given = {name: value for name, value in options.items() if value is not None}
    words = given.pop("prompt", [])
    if len(words) > 1:
        raise ConfigError(f"the prompt is {len(words)} arguments; quote it: {' '.join(words)!r}")
    if words:
        given["prompt"] = words[0]
    return Call(command, given)


@app.command()
@_takes_request
def generate(**options: Any) -> Call:
    """Generate a video of any length from text."""
    return _call("generate", options)


@app.command()
@_takes_request
def plan(**options: Any) -> Call:
    """Say how the work would be shared out: clips, scopes, memory, bytes. Generates nothing."""
    return _call("plan", options)


def _takes(*names: str) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
    """Give a command of **options a run directory and some options of the table."""

    def declare(command: Callable[..., Call]) -> Callable[..., Call]:
        argument = typer.Argument(metavar="RUN_DIR", help="Directory of the run.")
        first = _parameter("run_dir", str, argument).replace(
            default=inspect.Parameter.empty, annotation=Annotated[str, argument]
        )
        parameters = [first, *(_option(name) for name in names)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return declare


RESUME_OPTIONS = (
    *("nproc_per_node", "parallel", "timeout", "checkpoint_every", "max_restarts", "device"),
    *("quiet", "log_json"),
)


@app.command()
@_takes(*RESUME_OPTIONS)
def resume(**options: Any) -> Call:
    """Go on with a run from its last checkpoint, on any number of ranks."""
    return _call("resume", options)


@app.command()
@_takes("log_json")
def status(**options: Any) -> Call:
    """Say how far a run is."""
    return _call("status", options)


@app.command()
@_takes()
def cancel(**options: Any) -> Call:
    """End a run after the step under way; it can be gone on with."""
    return _call("cancel", options)


@app.command()
def models() -> Call:
    """What is embedded, and what families of models load."""
    return _call("models", {})


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def evaluate(context: typer.Context) -> Call:
    """Measure the quality of any video. Needs the extra `evaluate`."""
    return Call("evaluate", {"argv": context.args})


def main() -> None:
    """The program `video-infinity`.

    It ends at once: Python would take torch down piece by piece, for seconds on a busy machine.
    """
    interrupt_on_signals()
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt as how:  # while it told of an error, as a rank that others outlived
        code = report_interrupt(how)
    with suppress(OSError, KeyboardInterrupt):  # nobody reads any more
        sys.stdout.flush()
    os._exit(code)


def run(argv: Sequence[str]) -> int:
    """Carry out a command line.

    Returns the exit code: 0 done, 2 the user's mistake, 1 a failed run, 130 interrupted.
    """
    try:
        parsed = app(
            args=list(argv) or ["--help"], prog_name="video-infinity", standalone_mode=False
        )
        if isinstance(parsed, Call):
            _carry_out(parsed)
            return 0
        return int(parsed)
    except SystemExit as end:  # a rank that has told of its error
        return int(end.code or 0)
    except KeyboardInterrupt as how:
        return report_interrupt(how)
    except Exception as error:
        return report_error(error)


def _plugged_in(command: str) -> Callable[[Sequence[str]], None]:
    """What carries out a command that lives outside the core. Raises ConfigError if none does."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="video_infinity.commands", name=command):
        found: Callable[[Sequence[str]], None] = entry.load()
        return found
    raise ConfigError(f"{command} is not installed here; pip install 'video-infinity[{command}]'")


def _carry_out(call: Call) -> None:
    if call.command == "evaluate":
        return _plugged_in("evaluate")(call.options["argv"])
    if call.command == "models":
        from video_infinity.command import run_models

        return run_models()
    from video_infinity.options import read_request, read_resume_options

    if call.command in OF_A_RUN:
        options = dict(call.options)
        run_dir = Path(options.pop("run_dir")).absolute()
        parsed = read_resume_options(options)
        if call.command == "resume":
            from video_infinity.resuming import run_resume

            return run_resume(run_dir, parsed, call.argv())
        from video_infinity.observing import run_cancel, run_status

        if call.command == "status":
            return run_status(run_dir, as_json=parsed.get("log_json", False))
        return run_cancel(run_dir)

    request = read_request(call.options)  # most mistakes end here, before the slow imports
    from video_infinity.command import run_generate, run_plan

    if call.command == "generate":
        return run_generate(request, call.argv())
    return run_plan(request)
