"""Every method, made and measured: `docs/results.md`, its plots and its contact sheets.

    python -m benchmarks.quality --studies methods longest --models demo
    python -m benchmarks.quality --times
    python -m benchmarks.quality --longest
    python -m benchmarks.quality --longest --num-frames 16384 --columns clip-parallel
    python -m benchmarks.quality --studies methods --page docs/results.md --only-page

The column `real` is the world's own rendering of the same prompts: what the measures say where
nothing is wrong. An interrupted run goes on where it was: what was measured is a line of
`rows.jsonl`, and videos are needed for the contact sheets alone.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import studies
from benchmarks.fitting import longest_jobs
from benchmarks.quality_page import Shown, page, plots
from benchmarks.studies import REAL, SMALL, STUDIES, Study
from benchmarks.times import machines_of, read_times, take_times
from training import data
from training.evaluate import balanced_scenes
from video_infinity.adapters import PRESETS, inspect_model
from video_infinity.config import ModelSpec
from video_infinity.destination import atomic_write_bytes
from video_infinity.noise import frame_generator
from video_infinity.output import open_sink
from video_infinity_evaluation.pages import contact_sheet
from video_infinity_evaluation.passing import load_backends
from video_infinity_evaluation.report import (
    Job,
    Made,
    generate,
    is_made,
    known_clips,
    make_together,
    read_rows,
    run_jobs,
    video_file,
)

NUM_PROMPTS = 20
SHEET_COLUMNS = 16


def prompts() -> list[str]:
    """Sentences in which every word is about as frequent as the others of its kind."""
    return [data.SCENES[i].prompt() for i in balanced_scenes(NUM_PROMPTS)]


def render_real(job: Job, path: Path) -> Made:
    """The world's own video of a prompt, with a digit as in training, a place to start and a speed
    of its own; its borders are where clips of the length that the job's model knows would meet."""
    scene = next(i for i, scene in enumerate(data.SCENES) if scene.prompt() == job.prompt)
    generator = frame_generator(job.seed, scene, 0)
    clips = data.draw_clips(
        generator, 1, job.num_frames, data.exemplar_glyphs(), torch.tensor([scene])
    )
    frames = clips.frames(torch.arange(job.num_frames), torch.zeros(job.num_frames).long())
    pixels = (frames.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    height, width = pixels.shape[1:3]
    with open_sink(path, fps=8, width=width, height=height, overwrite=True) as sink:
        sink.write(pixels)
    latents = 1 + (job.num_frames - 1) // studies.FRAMES_PER_LATENT[job.model]
    trained_frames = inspect_model(ModelSpec(job.model)).defaults.trained_frames
    return Made(known_clips(latents, job.num_frames, trained_frames))


def chosen(arguments: argparse.Namespace) -> list[tuple[Study, str, list[tuple[str, Job]]]]:
    """The studies and models that were asked for, with their jobs."""
    known = SMALL if arguments.small else STUDIES
    wanted = arguments.studies or [study.name for study in known]
    return [
        (
            study,
            model,
            studies.jobs_of(study, model, prompts(), ranks=arguments.ranks, steps=arguments.steps),
        )
        for study in known
        if study.name in wanted
        for model in study.models
        if model in arguments.models
    ]


def make_and_measure(jobs: Sequence[Job], out: Path, end: float) -> None:
    """Column by column of each round; begins none after `end` on the monotonic clock."""
    makers = dict.fromkeys(studies.METHODS, generate) | {REAL: render_real}
    known, backends = read_rows(out), load_backends()
    missing = [job for job in dict.fromkeys(jobs) if job not in known]
    for _, column in itertools.groupby(missing, key=lambda job: replace(job, prompt="", seed=0)):
        if time.monotonic() >= end:
            return
        together = list(column)
        if together[0].method != REAL:
            make_together(together, out)
        run_jobs(together, out, makers, backends)


def sheet_of(shown: Shown, videos: Path) -> bytes | None:
    """A contact sheet of the longest videos of the first prompt; None where one is not there."""
    longest = max(job.num_frames for _, job in shown.jobs if job.method != REAL)
    first = shown.jobs[0][1].prompt
    jobs = [job for _, job in shown.jobs if job.prompt == first and job.num_frames == longest]
    if not jobs or not all(is_made(videos, job) for job in jobs):
        return None
    return contact_sheet([video_file(videos, job) for job in jobs], SHEET_COLUMNS)


def write_page(
    target: Path, all_shown: Sequence[Shown], videos: Path, command: str, machine: str
) -> None:
    """The page, and its pictures in `images/` beside it. Sheets of other weights or
    defaults, and plots of other rows, go."""
    images = target.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    drawn = plots(all_shown)
    for shown in all_shown:
        sheet = sheet_of(shown, videos)
        if sheet is not None:
            atomic_write_bytes(images / shown.sheet, sheet)
        for kind in (f"{shown.name}-??????-??????.png", f"{shown.name}.svg"):
            for old in images.glob(kind):
                if old.name not in (*drawn, shown.sheet):
                    old.unlink()
    for name, picture in drawn.items():
        atomic_write_bytes(images / name, picture.encode())
    text = page(all_shown, images, command, machine)
    atomic_write_bytes(target, text.encode())


def parser_of() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    known = (*STUDIES, *SMALL)
    embedded = [name for name in studies.FRAMES_PER_LATENT if name in PRESETS]
    names = [study.name for study in known]
    parser.add_argument("--studies", nargs="+", choices=names, help="default: all")
    parser.add_argument("--models", nargs="+", choices=embedded, default=embedded)
    columns = sorted({column.name for study in known for column in study.columns})
    parser.add_argument(
        "--columns",
        nargs="+",
        choices=columns,
        default=columns,
        metavar="COLUMN",
        help="make videos of these alone; the page shows all",
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, help="denoising steps; default: the model's own")
    parser.add_argument("--small", action="store_true", help="a few short videos")
    parser.add_argument("--minutes", type=float, help="begin no column of a round after so many")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--only-page", action="store_true", help="make no video")
    instead.add_argument(
        "--times", action="store_true", help="time the methods in turn in the place of measuring"
    )
    instead.add_argument(
        "--longest",
        action="store_true",
        help="make the longest videos that should fit, by what was timed, for their memory",
    )
    parser.add_argument(
        "--num-frames", type=int, help="with --longest: so many in the place of what should fit"
    )
    parser.add_argument("--out", type=Path, default=Path("out/quality"), help="rows and videos")
    parser.add_argument("--page", type=Path, help="default: results.md beside the videos")
    return parser


def command_of(arguments: argparse.Namespace) -> str:
    """What makes the same page again."""
    words = [*(["--small"] if arguments.small else []), "--ranks", str(arguments.ranks)]
    words += ["--studies", *arguments.studies] if arguments.studies else []
    if arguments.models != list(studies.FRAMES_PER_LATENT):
        words += ["--models", *arguments.models]
    words += ["--steps", str(arguments.steps)] if arguments.steps else []
    return " ".join(["python -m benchmarks.quality", *words])


def main() -> None:
    """The command's entry."""
    parser = parser_of()
    arguments = parser.parse_args()
    if arguments.num_frames is not None and not (arguments.longest and arguments.num_frames > 0):
        parser.error(f"--num-frames {arguments.num_frames}: 1 or more, and with --longest alone")
    minutes = float("inf") if arguments.minutes is None else arguments.minutes
    end = time.monotonic() + 60 * minutes
    asked = chosen(arguments)
    if not asked:
        parser.error("none of these studies is done on these models; see benchmarks/studies.py")
    todo = [
        job
        for study, _, jobs in asked
        for name, job in jobs
        if name in arguments.columns and (study.timed or not (arguments.times or arguments.longest))
    ]
    methods = [job for job in todo if job.method != REAL]
    if arguments.times:
        take_times(methods, arguments.out, end)
    elif arguments.longest:
        longest = longest_jobs(methods, read_times(arguments.out))
        if arguments.num_frames:
            longest = [
                replace(job, num_frames=studies.pixel_frames(job.model, arguments.num_frames))
                for job in methods
            ]
        take_times(longest, arguments.out, end)
    elif not arguments.only_page:
        make_and_measure(todo, arguments.out, end)
    rows, times = read_rows(arguments.out), read_times(arguments.out)
    all_shown = [
        Shown(study, model, jobs, {job: rows[job] for _, job in jobs if job in rows}, times)
        for study, model, jobs in asked
    ]
    target = arguments.page or arguments.out / "results.md"
    words = command_of(arguments)
    write_page(target, all_shown, arguments.out, words, "; ".join(machines_of(arguments.out)))
    made, wanted = sum(len(s.rows) for s in all_shown), sum(len(s.jobs) for s in all_shown)
    print(f"{target}: {made} of {wanted} videos")


if __name__ == "__main__":
    main()
