"""The world's own truth: real renderings pass, and each way of being wrong is seen as that one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from training import data
from training.judge import real_patches
from video_infinity_evaluation.world.reading import read_digits
from video_infinity_evaluation.world.truth import Sighting, Witness, measure, turns_of
from video_infinity_evaluation.world.words import Scene

SCENES = (
    Scene("seven", "red", "left", "navy"),
    Scene("three", "blue", "up", "black"),
    Scene("zero", "white", "right", "maroon"),
    Scene("four", "yellow", "down", "gray"),
)
FRAMES = 60
ONE_STEP = 1 / (FRAMES - 1)


def rendered(scene: Scene) -> Any:
    """The world's own frames of a scene, [F, H, W, 3], with one of the digits that models learn."""
    scene_N = torch.tensor([data.SCENES.index(scene)])
    generator = torch.Generator().manual_seed(7)
    glyphs = data.exemplar_glyphs()
    clips = data.draw_clips(generator, 1, FRAMES, glyphs, scene_N)
    frames = clips.frames(torch.arange(FRAMES), torch.zeros(FRAMES).long())
    return (frames.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def truth(video: Any, scene: Scene) -> dict[str, Any]:
    witness = Witness()
    for start in range(0, len(video), 8):
        witness.see_all(video[start : start + 8])
    return {m.name: m.value for m in measure(witness.sighting(), scene)}


@pytest.fixture(scope="module")
def real() -> dict[Scene, Any]:
    return {scene: rendered(scene) for scene in SCENES}


@pytest.mark.parametrize("scene", SCENES, ids=Scene.prompt)
def test_the_world_itself_is_right(scene: Scene, real: dict[Scene, Any]) -> None:
    found = truth(real[scene], scene)
    for word in ("digit", "colour", "background", "all words"):
        assert found[f"{word} right (frames)"] == 1
    assert found["same digit (frames)"] == 1
    assert found["drift of the words"] == 0
    assert found["first direction right"] == 1
    assert found["steps on the axis"] == 1
    assert found["jumps (steps)"] == 0
    assert found["turns at a border"] == 1
    num_turns = (FRAMES - 1) * 3.0 / 28
    assert found["standing still (steps)"] <= num_turns / (FRAMES - 1), "a turn can stop one step"
    assert 1.5 < found["median step, pixels"] < 3.5
    assert found["roughness, pixels"] < 1.2
    still = found["standing still (steps)"]
    assert found["mean of the world"] == pytest.approx((8 + 1 - still) / 9), "nine shares"


def test_digits_that_nothing_was_trained_on_are_read_too() -> None:
    glyphs = data.split_glyphs(held_out=True)
    patch_BPP, digit_B = real_patches(torch.Generator().manual_seed(0), 1000, glyphs)
    assert (read_digits(patch_BPP) == digit_B).float().mean() > 0.97, "0.98 of 4,000"


def test_frames_of_another_scene_are_wrong_by_the_words_that_differ(
    real: dict[Scene, Any],
) -> None:
    seven, three = SCENES[0], SCENES[1]
    half = np.concatenate([real[seven][: FRAMES // 2], real[three][FRAMES // 2 :]])
    found = truth(half, seven)
    for word in ("digit", "colour", "background"):
        assert found[f"{word} right (frames)"] == 0.5
    assert found["same digit (frames)"] == 0.5
    assert found["drift of the words"] == 1, "right at first, wrong at the end"
    other = truth(real[seven], Scene("seven", "green", "right", "navy"))
    assert other["digit right (frames)"] == other["background right (frames)"] == 1
    assert other["colour right (frames)"] == other["first direction right"] == 0


Spoil = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("name", "spoil", "low", "high"),
    [
        ("jumps (steps)", lambda v: np.roll(v, 20, axis=0), ONE_STEP, ONE_STEP),
        ("jumps (steps)", lambda v: v[::8], 0.5, 1.0),
        ("standing still (steps)", lambda v: np.repeat(v[:30], 2, axis=0), 0.5, 0.55),
        ("steps on the axis", lambda v: v.transpose(0, 2, 1, 3), 0.0, 0.0),
        ("first direction right", lambda v: v[:10][::-1], 0.0, 0.0),
        ("all words right (frames)", lambda v: v * 0 + v[:, :1, :1], 0.0, 0.0),
    ],
)
def test_each_fault_is_seen(
    name: str, spoil: Spoil, low: float, high: float, real: dict[Scene, Any]
) -> None:
    found = truth(spoil(real[SCENES[0]]), SCENES[0])[name]
    assert found is not None and low <= found <= high


def test_frames_without_a_digit_are_not_of_the_same_digit(real: dict[Scene, Any]) -> None:
    whole = real[SCENES[0]]
    ground = whole[:1].copy()
    ground[:] = np.median(whole.reshape(-1, 3), axis=0)
    gone = np.concatenate([whole[: FRAMES // 2], np.repeat(ground, FRAMES // 2, axis=0)])
    found = truth(gone, SCENES[0])
    assert found["digit right (frames)"] == 0.5
    assert found["same digit (frames)"] == 0.5
    assert truth(np.repeat(ground, 8, axis=0), SCENES[0])["same digit (frames)"] == 0


def test_turns_in_the_middle_are_none_of_the_world() -> None:
    zigzag = np.array([30.0, 33, 36, 33, 30, 27, 24, 21, 18, 21, 24])
    frames, at_border = turns_of(zigzag)
    assert frames.tolist() == [2, 8]
    assert at_border.tolist() == [False, True]


def test_a_track_without_a_turn_or_a_step_has_no_share_of_turns() -> None:
    still = Sighting(*(np.zeros(5, np.int64) for _ in range(3)), np.full((5, 2), 31.5))
    found = {m.name: m.value for m in measure(still, SCENES[0])}
    assert found["turns at a border"] is None
    assert {m.note for m in measure(still, SCENES[0]) if m.value is None} == {"it never turns"}
    two = Sighting(*(np.zeros(2, np.int64) for _ in range(3)), np.full((2, 2), 31.5))
    notes = {m.name: m.note for m in measure(two, SCENES[0]) if m.value is None}
    assert notes == {"turns at a border": "it never turns", "roughness, pixels": "too short"}
    assert found["standing still (steps)"] == 1
    assert found["steps on the axis"] == 0
    shares = [found[f"{word} right (frames)"] for word in ("digit", "colour", "background")]
    shares += [found["same digit (frames)"], 0, 0, 1, 0]  # direction, axis, no jumps, all still
    assert found["mean of the world"] == pytest.approx(np.mean(shares)), "a frozen video pays"
