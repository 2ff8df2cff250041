"""All methods on the embedded model, made and measured: `docs/results.md` and its contact sheet.

    python -m benchmarks.quality --methods clip-parallel independent --num-frames 64 --ranks 4

The column `real` is the world's own rendering of the same prompts: what the measures say where
nothing is wrong. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.machine import describe, in_words
from training import data
from training.evaluate import balanced_scenes
from video_infinity.destination import atomic_write_bytes
from video_infinity.output import open_sink
from video_infinity_evaluation.pages import contact_sheet, tables
from video_infinity_evaluation.report import Job, Row, generate, run_jobs, video_file

REAL = "real"
PAGE = """# What was measured of the methods

Each method made every video of the same prompts and seeds with the embedded model, and
`video-infinity evaluate` measured it. A cell is the mean over prompts (seeds of one prompt are
averaged first), its 95 % interval (Student's t over prompts) and the number of prompts. `real` is
the world's own rendering of the same prompts, seen through the same codec.
[How each measure is made](evaluation.md).

Consistency rewards a frozen picture: read it beside `dynamic_degree` and `motion`.

Repeat: `{command}`

Machine: {machine}.

![{caption}](images/{sheet})

*{caption}.*

{tables}"""


def render_real(job: Job, path: Path) -> Sequence[int]:
    """The world's own video of a prompt, with a digit as in training."""
    scene = next(i for i, scene in enumerate(data.SCENES) if scene.prompt() == job.prompt)
    generator = torch.Generator().manual_seed(job.seed)
    clips = data.draw_clips(
        generator, 1, job.num_frames, data.exemplar_glyphs(), torch.tensor([scene])
    )
    frames = clips.frames(torch.arange(job.num_frames), torch.zeros(job.num_frames).long())
    pixels = (frames.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    height, width = pixels.shape[1:3]
    with open_sink(path, fps=8, width=width, height=height, overwrite=True) as sink:
        sink.write(pixels)
    step = -(-job.num_frames // job.ranks)
    return range(step, job.num_frames, step)


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """Prompt by prompt, so that an interrupted run has all methods of the first prompts."""
    prompts = [data.SCENES[i].prompt() for i in balanced_scenes(arguments.prompts)]
    options = ("--num-inference-steps", str(arguments.steps)) if arguments.steps else ()
    return [
        Job(
            method,
            prompt,
            seed,
            num_frames,
            arguments.ranks,
            options=() if method == REAL else options,
        )
        for prompt in prompts
        for num_frames in arguments.num_frames
        for seed in range(1, arguments.seeds + 1)
        for method in (*arguments.methods, REAL)
    ]


def page(rows: Sequence[Row], arguments: argparse.Namespace, sheet: str) -> str:
    """The text of `docs/results.md`."""
    words = ["python -m benchmarks.quality", "--methods", *arguments.methods]
    words += ["--num-frames", *map(str, arguments.num_frames)]
    words += ["--prompts", str(arguments.prompts), "--seeds", str(arguments.seeds)]
    words += ["--ranks", str(arguments.ranks)]
    if arguments.steps:
        words += ["--steps", str(arguments.steps)]
    longest = max(arguments.num_frames)
    names = ", ".join((*arguments.methods, REAL))
    return PAGE.format(
        command=" ".join(words),
        machine=in_words(describe()),
        caption=f"{longest} frames of one prompt, from first to last; rows: {names}",
        sheet=sheet,
        tables=tables(rows),
    )


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--methods", nargs="+", default=["clip-parallel", "independent"])
    parser.add_argument("--num-frames", nargs="+", type=int, default=[64])
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=4, help="ranks, and so clips, of each video")
    parser.add_argument("--steps", type=int, help="denoising steps; default: the model's own")
    parser.add_argument("--out", type=Path, default=Path("out/quality"))
    parser.add_argument("--page", type=Path, help="write this page, and its sheet into images/")
    arguments = parser.parse_args()
    jobs = jobs_of(arguments)
    makers = dict.fromkeys(arguments.methods, generate) | {REAL: render_real}
    rows = run_jobs(jobs, arguments.out, makers)
    summary = {"machine": describe(), "rows": rows}
    atomic_write_bytes(arguments.out / "quality.json", json.dumps(summary, indent=1).encode())
    target = arguments.page or arguments.out / "results.md"
    longest = max(arguments.num_frames)
    first = [job for job in jobs if (job.prompt, job.seed) == (jobs[0].prompt, 1)]
    shown = [video_file(arguments.out, job) for job in first if job.num_frames == longest]
    (target.parent / "images").mkdir(parents=True, exist_ok=True)
    sheet = target.with_suffix(".png").name
    pictures = contact_sheet([video for video in shown if video.exists()], 16)
    atomic_write_bytes(target.parent / "images" / sheet, pictures)
    atomic_write_bytes(target, page(rows, arguments, sheet).encode())
    print(f"{target}: {len(rows)} of {len(jobs)} videos")


if __name__ == "__main__":
    main()
