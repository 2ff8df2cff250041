"""What `docs/results.md` compares: which videos stand beside each other, and how many. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from video_infinity_evaluation.report import Job

REAL = "real"
"""The world's own rendering of the same prompts."""

METHODS = (
    "clip-parallel",
    "direct",
    "independent",
    "freenoise",
    "multidiffusion",
    "autoregressive",
    "masked-continuation",
    "fifo",
)
LONGEST = ("clip-parallel", "independent", "freenoise", "autoregressive")
"""Ours and three peers, on the longest video."""
CLOSE = ("autoregressive", "masked-continuation")
"""Peers of which five prompts do not say whether they are behind ours."""

ROUND = 5
"""Prompts of a column that are made one after the other."""
TOGETHER = ("--front-frames", "0")
FRAMES_PER_LATENT = MappingProxyType({"demo": 1, "demo-wan": 4})


@dataclass(frozen=True)
class Column:
    """One way to make a video. models: those that it can be done on."""

    name: str
    method: str
    options: tuple[str, ...] = ()
    models: tuple[str, ...] = tuple(FRAMES_PER_LATENT)


@dataclass(frozen=True)
class Study:
    """Columns that stand beside each other.

    prompts  by the number of frames; the first so many of one list
    models   those that it is done on
    timed    whether its columns are timed as well
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    prompts: Mapping[int, int]
    models: tuple[str, ...] = tuple(FRAMES_PER_LATENT)
    timed: bool = False


def _plain(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(name, name) for name in names)


def _ours(**options: str) -> tuple[Column, ...]:
    return tuple(
        Column(name.replace("_", " "), "clip-parallel", tuple(words.split()))
        for name, words in options.items()
    )


def _pairs(first: str, second: str, sizes: str) -> tuple[Column, ...]:
    """Columns of two sizes, such as local scope and global context, H:G."""
    pairs = [(size, *size.split(":")) for size in sizes.split()]
    return tuple(
        Column(size, "clip-parallel", (first, one, second, other)) for size, one, other in pairs
    )


def _scopes(sizes: str) -> tuple[Column, ...]:
    return _pairs("--local-frames", "--global-frames", sizes)


def _together(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The same columns with all frames beginning together: what a part does shows without fronts,
    and costs half."""
    return tuple(replace(c, options=(*c.options, *TOGETHER)) for c in columns)


def _stretches(name: str, model: str, span: str, prompts: Mapping[int, int]) -> Study:
    """One front through all frames, the default, beside stretches of at most `span` latent ones."""
    return Study(
        name,
        "One front through the whole video, or one through each stretch of so many latent frames",
        (
            Column("whole", "clip-parallel"),
            Column(span, "clip-parallel", ("--front-span", span)),
        ),
        MappingProxyType(prompts),
        models=(model,),
    )


ALL_TOGETHER = Column("all together", "clip-parallel", TOGETHER)
"""Ours without the fronts that both models have in their defaults."""
STUDIES = (
    Study(
        "methods",
        "Methods",
        (*_plain(METHODS[:1]), ALL_TOGETHER, *_plain((*METHODS[1:], REAL))),
        MappingProxyType({64: 20, 192: 5, 1024: 2}),
        timed=True,
    ),
    Study(
        "close",
        "More prompts of what is close",
        _plain((*METHODS[:1], *CLOSE, REAL)),
        MappingProxyType({192: 20}),
        models=("demo",),
    ),
    Study(
        "close-wan",
        "More prompts of what is close",
        _plain((*METHODS[:1], "direct", *CLOSE, REAL)),
        MappingProxyType({192: 20, 1024: 6}),
        models=("demo-wan",),
    ),
    Study("longest", "The longest videos", _plain((*LONGEST, REAL)), MappingProxyType({2304: 2})),
    Study(
        "close-longest",
        "The longest videos, more prompts of what is close",
        _plain((*METHODS[:1], "autoregressive", REAL)),
        MappingProxyType({2304: 5}),
        models=("demo-wan",),
    ),
    Study(
        "conditioning",
        "Frames that a chunk goes on from: clean, as the models were trained, or by replacement",
        (
            Column("clean", "autoregressive"),
            Column("replacement", "autoregressive", ("--conditioning", "replacement")),
        ),
        MappingProxyType({192: 5}),
    ),
    _stretches("stretches", "demo", "1024", {2304: 2}),
    _stretches("stretches-wan", "demo-wan", "256", {1024: 6, 2304: 5}),
    Study(
        "parts",
        "Without one part, all frames together",
        _together(
            _ours(
                all_together="",
                without_conv="--without conv",
                without_norm="--without norm",
                without_attention="--without attention",
                without_all_three="--without conv,norm,attention",
                without_local="--without local",
                without_global="--without global",
            )
        ),
        MappingProxyType({192: 5}),
        models=("demo",),
    ),
    Study(
        "parts-wan",
        "Without one part, all frames together",
        _together(
            _ours(
                all_together="",
                without_attention="--without attention",
                without_local="--without local",
                without_global="--without global",
            )
        ),
        MappingProxyType({192: 5}),
        models=("demo-wan",),
    ),
    Study(
        "bias",
        "The paper's bias, and global frames that rotate, all frames together",
        _together(
            _ours(
                all_together="",
                bias_10="--local-bias 10 --global-bias 10",
                bias_1="--local-bias 1 --global-bias 1",
                rotating="--global-rule rotating",
                freenoise_noise="--noise freenoise",
            )
        ),
        MappingProxyType({192: 5}),
    ),
    Study(
        "fronts",
        "Frames that a front reaches in a step, and those that it moves through at most",
        (
            ALL_TOGETHER,
            Column("2:4096", "clip-parallel"),
            *_pairs("--front-frames", "--front-span", "8:1024 4:1024 1:1024 2:96 2:48"),
        ),
        MappingProxyType({192: 5}),
        models=("demo",),
    ),
    Study(
        "fronts-wan",
        "Latent frames that a front reaches in a step, and those that it moves through at most",
        (
            ALL_TOGETHER,
            Column("1:1024", "clip-parallel"),
            *_pairs("--front-frames", "--front-span", "2:256 1:25 1:13"),
        ),
        MappingProxyType({192: 5}),
        models=("demo-wan",),
    ),
    Study(
        "scopes",
        "Sizes of the local scope and of the global context, all frames together",
        _together(_scopes("8:16 4:4 8:0 8:8 12:0 12:4 12:16 16:0")),
        MappingProxyType({192: 5}),
        models=("demo",),
    ),
    Study(
        "scopes-fronts",
        "Sizes of the local scope and of the global context, in fronts",
        (Column("8:16", "clip-parallel"), *_scopes("4:16 8:0 8:4 16:0")),
        MappingProxyType({192: 5}),
        models=("demo",),
    ),
    Study(
        "scopes-wan",
        "Sizes of the local scope and of the global context, all frames together",
        _together(_scopes("8:4 4:0 4:4 6:0 6:4 8:0 12:0 12:4")),
        MappingProxyType({192: 5}),
        models=("demo-wan",),
    ),
)
SMALL = (
    Study(
        "small",
        "Two methods",
        _plain(("clip-parallel", "independent", REAL)),
        MappingProxyType({32: 2}),
        models=("demo",),
        timed=True,
    ),
)
"""A few videos, to see that all of it works."""


def pixel_frames(model: str, num_frames: int) -> int:
    """The nearest number of frames, not below, that a model makes."""
    rounds = -(-(num_frames - 1) // FRAMES_PER_LATENT[model])
    return rounds * FRAMES_PER_LATENT[model] + 1


def jobs_of(
    study: Study, model: str, prompts: Sequence[str], *, ranks: int, steps: int | None
) -> list[tuple[str, Job]]:
    """(column, job) of one study on one model. ROUND prompts in every column, then the next, so
    that an interrupted run has all columns of the first prompts.

    Every prompt has a seed of its own: with the same noise in all videos, what that noise alone
    brings about would be no sample, however many prompts there are.
    """
    given = ("--num-inference-steps", str(steps)) if steps else ()
    jobs = []
    for num_frames, count in study.prompts.items():
        frames = pixel_frames(model, num_frames)
        for first in range(0, count, ROUND):
            for column in (c for c in study.columns if model in c.models):
                for number in range(first, min(first + ROUND, count)):
                    options = () if column.method == REAL else (*given, *column.options)
                    about = (prompts[number], 1 + number, frames, ranks, model, options)
                    jobs.append((column.name, Job(column.method, *about)))
    return jobs
