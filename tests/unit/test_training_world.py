"""The embedded model's world shows what its prompts say."""

import pytest
import torch

from training import data, world
from training.data import SCENES
from training.evaluate import balanced_scenes
from training.judge import read
from training.world import parse_prompt


@pytest.fixture(scope="module")
def clips() -> data.Clips:
    generator = torch.Generator().manual_seed(0)
    return data.draw_clips(generator, 60, 40, data.exemplar_glyphs())


def test_prompt_round_trip_for_every_scene():
    assert len(SCENES) == 10 * 6 * 4 * 5
    assert [parse_prompt(scene.prompt()) for scene in SCENES] == list(SCENES)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a red seven moving left on a navy",
        "a pink seven moving left on a navy background",
        "a seven red moving left on a navy background",
        "the red seven moving left on a navy background",
    ],
)
def test_prompt_outside_the_grammar_is_refused(prompt):
    with pytest.raises(ValueError, match="not of the form"):
        parse_prompt(prompt)


def test_vocabulary_is_exactly_the_words_of_all_prompts():
    words = {word for scene in SCENES for word in scene.prompt().split()}
    assert words == set(world.VOCABULARY)
    assert len(world.VOCABULARY) == len(words)


def test_digit_and_background_have_the_named_colours():
    glyph = torch.zeros(1, world.GLYPH_SIZE, world.GLYPH_SIZE)
    glyph[0, 10:20, 10:20] = 1
    red, navy = (torch.tensor([rgb]).float() for rgb in ((230, 40, 40), (20, 25, 70)))
    frame = world.render(glyph, red, navy, torch.tensor([[5, 28]]))[0] * 255
    is_red = (frame - red[0, :, None, None]).abs().amax(0) < 1e-3
    rows, columns = torch.nonzero(is_red, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 24, 38, 47)
    torch.testing.assert_close(frame[:, 0, 0], navy[0] * 0.7)
    torch.testing.assert_close(frame[:, -1, 0], navy[0] * 1.3)


def test_bounces_stay_within_the_borders_and_reach_them(clips):
    corner = clips.corner
    assert corner.min() == 0
    assert corner.max() == world.TRAVEL
    without_bounce = world.corner_path(
        torch.tensor([[0, 1]]), torch.tensor([[0.0, 20.0]]), torch.tensor([2.5]), 40
    )
    unfolded = 20 + 2.5 * 39
    assert without_bounce.max() <= world.TRAVEL < unfolded


def test_motion_is_two_to_three_pixels_and_first_in_the_named_direction(clips):
    moved = clips.corner.diff(dim=1)
    for scene, moved_F2 in zip(clips.scene.tolist(), moved, strict=True):
        direction = torch.tensor(world.DIRECTIONS[SCENES[scene].direction])
        first = moved_F2[:3].sum(0)
        assert 5 <= (first * direction).sum() <= 10
        assert (moved_F2 * (1 - direction.abs())).abs().sum() == 0
        assert moved_F2.abs().sum(1).max() <= 4


def test_clips_carry_the_digit_that_the_prompt_names():
    opacity, label = data.exemplar_glyphs()
    clips = data.draw_clips(torch.Generator().manual_seed(1), 50, 1, (opacity, label))
    for scene, glyph in zip(clips.scene.tolist(), clips.opacity, strict=True):
        same = (opacity == glyph).flatten(1).all(1)
        assert {world.DIGITS[i] for i in label[same].tolist()} == {SCENES[scene].digit}


def test_held_out_digits_are_apart_from_training_and_exemplars():
    held_out, rest = (data.split_glyphs(held_out=held)[0] for held in (True, False))
    assert len(held_out) + len(rest) == 1797
    assert len(held_out) > 250
    exemplars, _ = data.exemplar_glyphs()
    distance = torch.cdist(exemplars.flatten(1), held_out.flatten(1))
    assert distance.min() > 0


def test_judge_reads_colour_background_and_place_of_real_frames(clips):
    moment = torch.arange(60) % 40
    reading = read(clips.frames(moment, torch.arange(60)))
    scenes = [SCENES[i] for i in clips.scene.tolist()]
    assert [list(world.COLOURS)[i] for i in reading.colour.tolist()] == [s.colour for s in scenes]
    assert [list(world.BACKGROUNDS)[i] for i in reading.background.tolist()] == [
        s.background for s in scenes
    ]
    middle = clips.corner[torch.arange(60), moment] + world.GLYPH_SIZE / 2
    assert (reading.centre - middle).abs().max() < 6


def test_judge_finds_no_digit_in_an_empty_frame():
    nothing = torch.zeros(1, world.GLYPH_SIZE, world.GLYPH_SIZE)
    gray = torch.tensor([world.BACKGROUNDS["gray"]]).float()
    reading = read(world.render(nothing, gray, gray, torch.zeros(1, 2, dtype=torch.int64)))
    assert reading.colour.tolist() == [-1]


def test_balanced_scenes_use_every_word_equally():
    scenes = [SCENES[i] for i in balanced_scenes(120)]
    assert len(set(scenes)) == 120
    for kind, words in (
        ("digit", world.DIGITS),
        ("colour", world.COLOURS),
        ("direction", world.DIRECTIONS),
        ("background", world.BACKGROUNDS),
    ):
        counts = [sum(getattr(scene, kind) == word for scene in scenes) for word in words]
        assert max(counts) - min(counts) <= 1
