"""A first look at settings: a few long videos of an embedded model, read before the codec.

    python -m benchmarks.look --num-frames 96 "method=direct" "local_frames=12 global_frames=4"

A setting is a string of keywords of the pipeline's call; `defaults` stands for none. Every setting
makes the same videos, the first prompts of the report with a seed of its own each, in this one
process. The table says the mean over them, and how far it lies from that of the first setting,
prompt by prompt, with a 95 % interval.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import yaml

from benchmarks.quality import NUM_PROMPTS, prompts
from video_infinity import VideoInfinityPipeline
from video_infinity.progress import silent
from video_infinity_evaluation.statistics import interval
from video_infinity_evaluation.world.truth import Witness, measure
from video_infinity_evaluation.world.words import parse_prompt

MEAN = "mean of the world"
SHOWN = (
    MEAN,
    "digit right (frames)",
    "first direction right",
    "turns at a border",
    "steps on the axis",
    "jumps (steps)",
    "standing still (steps)",
)
DEFAULTS = "defaults"


def keywords_of(setting: str) -> dict[str, Any]:
    """`a=1 b=x` as {"a": 1, "b": "x"}; nothing for DEFAULTS. Raises ValueError for a bare word."""
    words = [] if setting == DEFAULTS else setting.split()
    pairs = [word.partition("=") for word in words]
    if bare := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"{' '.join(bare)}: a setting is name=value name=value, or {DEFAULTS}")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def look(pipe: VideoInfinityPipeline, prompt: str, call: Mapping[str, Any]) -> dict[str, float]:
    """The world's measures of one video; those that it has no value for are left out."""
    witness = Witness()
    with pipe(prompt, observer=silent, **call) as video:
        for frame in video:
            witness.see_all([frame])
    told = measure(witness.sighting(), parse_prompt(prompt))
    return {m.name: m.value for m in told if m.value is not None}


def line(setting: str, rows: list[dict[str, float]], base: list[dict[str, float]]) -> str:
    """A row of the table: means of SHOWN, and the mean of the world less that of `base`."""
    cells = []
    for name in SHOWN:
        values = [row[name] for row in rows if name in row]
        cells.append(f"{fmean(values):.3f}" if values else "")
    gained = [own[MEAN] - other[MEAN] for own, other in zip(rows, base, strict=True)]
    cells.append("" if rows is base else str(interval(gained)))
    return f"| {setting} | {' | '.join(cells)} |"


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("settings", nargs="+", type=str)
    parser.add_argument("--model", default="demo", help="a preset, or the folder of an export")
    parser.add_argument("--num-frames", type=int, default=96)
    parser.add_argument("--prompts", type=int, default=5, choices=range(1, NUM_PROMPTS + 1))
    parser.add_argument("--seed", type=int, default=1, help="of the first prompt; then one more")
    arguments = parser.parse_args()
    try:
        calls = {setting: keywords_of(setting) for setting in arguments.settings}
    except ValueError as error:
        parser.error(str(error))
    pipe = VideoInfinityPipeline.from_pretrained(arguments.model)
    print(f"| | {' | '.join(SHOWN)} | gained |\n| --- |{' --- |' * (len(SHOWN) + 1)}", flush=True)
    found: dict[str, list[dict[str, float]]] = {}
    some = prompts()[: arguments.prompts]
    for setting, call in calls.items():
        found[setting] = [
            look(pipe, prompt, {"num_frames": arguments.num_frames, "seed": seed, **call})
            for seed, prompt in enumerate(some, arguments.seed)
        ]
        print(line(setting, found[setting], next(iter(found.values()))), flush=True)
    print(json.dumps(vars(arguments)))


if __name__ == "__main__":
    main()
