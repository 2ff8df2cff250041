"""The first look at settings reads what a whole evaluation would read."""

from __future__ import annotations

import pytest

from benchmarks.look import DEFAULTS, MEAN, SHOWN, keywords_of, line, look
from video_infinity import VideoInfinityPipeline
from video_infinity_evaluation.statistics import interval
from video_infinity_evaluation.world.truth import Witness, measure
from video_infinity_evaluation.world.words import parse_prompt

PROMPT = "a red seven moving left on a navy background"


def test_a_setting_is_keywords_of_the_call() -> None:
    assert keywords_of("method=direct eta=0.5 local_frames=12") == {
        "method": "direct",
        "eta": 0.5,
        "local_frames": 12,
    }
    assert keywords_of(DEFAULTS) == {}
    with pytest.raises(ValueError, match="direct: a setting is"):
        keywords_of("direct eta=0.5")


def test_frames_are_read_as_they_come() -> None:
    pipe = VideoInfinityPipeline.from_pretrained("demo")
    call = {"num_frames": 9, "num_inference_steps": 2, "seed": 3}
    found = look(pipe, PROMPT, {**call, "method": "independent"})
    with pipe(PROMPT, method="independent", **call) as video:
        witness = Witness()
        witness.see_all(list(video))
    whole = measure(witness.sighting(), parse_prompt(PROMPT))
    assert found == {m.name: m.value for m in whole if m.value is not None}
    assert found != look(pipe, PROMPT, {**call, "seed": 4, "method": "independent"})


def test_what_a_setting_gains_is_paired_by_prompt() -> None:
    def rows_of(*means: float) -> list[dict[str, float]]:
        return [dict.fromkeys(SHOWN, 0.5) | {MEAN: mean} for mean in means]

    base, better = rows_of(0.2, 0.9), rows_of(0.31, 1.0)
    told = line("eta=1", better, base)
    assert told.startswith("| eta=1 | 0.655 | 0.500 |")
    assert told.endswith(f"| {interval([0.11, 0.1])} |")
    assert line("eta=0", base, base).endswith("|  |")
