"""What each measure finds, and what means do not: on real video, and on real video spoilt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.evaluation.conftest import Mean, real_frames
from video_infinity_evaluation import Backends, EvaluationError, Scores, score

FRAMES, CLIP = 48, 16
BORDERS = range(CLIP, FRAMES, CLIP)
CARPHONE_FPS = 30.0


def carphone() -> Any:
    return real_frames("carphone_pristine", FRAMES + 32, 128)


def with_jumps() -> Any:
    """Every 16 frames the video leaps 32 frames on or 48 back, so that no clip follows its last."""
    video = carphone()
    starts = (0, 48, 16)
    return np.concatenate([video[s : s + CLIP] for s in starts])


def looped() -> Any:
    return np.concatenate([carphone()[:CLIP]] * 3)


def drifting() -> Any:
    """Ever redder: by 40 levels at the end."""
    tint_F3 = np.linspace(0, 1, FRAMES)[:, None] * np.array([40.0, -12.0, -24.0])
    video = carphone()[:FRAMES].astype(np.float64) + tint_F3[:, None, None]
    return video.clip(0, 255).astype(np.uint8)


def noise() -> Any:
    return np.random.default_rng(0).integers(0, 256, (16, 72, 88, 3), dtype=np.uint8)


VIDEOS: dict[str, Callable[[], Any]] = {
    "real": lambda: carphone()[:FRAMES],
    "jumps": with_jumps,
    "loop": looped,
    "drift": drifting,
    "frozen": lambda: np.repeat(carphone()[:1], 20, axis=0),
    "noise": noise,
    "race": lambda: real_frames("bikes", 16, 160),
}


@pytest.fixture(scope="module")
def scores(backends: Backends) -> dict[str, Scores]:
    def of(video: Any) -> Scores:
        borders = [border for border in BORDERS if border < len(video)]
        return score(video, borders=borders, fps=CARPHONE_FPS, backends=backends)

    return {name: of(make()) for name, make in VIDEOS.items()}


def value(scores: Scores, name: str) -> float:
    found = scores[name]
    assert found is not None, name
    return found


def test_real_video_passes_all(scores: dict[str, Scores]) -> None:
    real = scores["real"]
    assert value(real, "subject_consistency") > 0.9
    assert value(real, "motion_smoothness") > 0.98
    assert value(scores["race"], "dynamic_degree") == 1
    for what in ("pixels", "motion", "content"):
        assert 0.5 < value(real, f"seam_ratio_{what}") < 1.5
    assert value(real, "largest_jump") < 2.5
    assert value(real, "loop_score") < 0.3
    assert value(real, "colour_drift") < 2.3, "less than one just notices"


def test_a_frozen_video_is_consistent_and_not_dynamic(scores: dict[str, Scores]) -> None:
    frozen = scores["frozen"]
    assert value(frozen, "subject_consistency") == pytest.approx(1)
    assert value(frozen, "temporal_flickering") == 1
    assert value(frozen, "dynamic_degree") == 0
    assert value(frozen, "motion") == 0
    assert value(frozen, "loop_score") == 0
    assert value(frozen, "seam_ratio_pixels") == 1
    assert frozen["largest_jump"] is None


def test_noise_is_consistent_by_vbench_and_not_smooth(scores: dict[str, Scores]) -> None:
    real, noisy = scores["real"], scores["noise"]
    assert value(noisy, "subject_consistency") > value(real, "subject_consistency") - 0.02
    assert value(noisy, "motion_smoothness") < 0.8 < value(real, "motion_smoothness")
    assert value(noisy, "warping_error") > 50 * value(real, "warping_error")


def test_jumps_show_at_the_seams_and_hide_in_the_means(scores: dict[str, Scores]) -> None:
    real, jumps = scores["real"], scores["jumps"]
    for name in ("subject_consistency", "background_consistency", "temporal_flickering"):
        assert abs(value(jumps, name) - value(real, name)) < 0.02
    for what in ("pixels", "motion", "content"):
        assert value(jumps, f"seam_ratio_{what}") > 2.5
    assert value(jumps, "largest_jump") > 1.3 * value(real, "largest_jump")
    assert (
        jumps.series["left over by motion, share"].index(
            max(jumps.series["left over by motion, share"])
        )
        + 1
        in BORDERS
    )


def test_a_loop_is_found_with_its_period(scores: dict[str, Scores]) -> None:
    (loop,) = (m for m in scores["loop"].measures if m.name == "loop_score")
    assert loop.value is not None and loop.value > 0.98
    assert loop.note == f"every {CLIP} frames"
    assert value(scores["loop"], "subject_consistency") > 0.9, "which sees nothing of it"


def test_a_drift_of_colour_is_found(scores: dict[str, Scores]) -> None:
    real, drift = scores["real"], scores["drift"]
    assert value(drift, "colour_drift") > value(real, "colour_drift") + 10
    assert value(drift, "subject_consistency") > value(real, "subject_consistency") - 0.02
    for what in ("pixels", "motion", "content"):
        assert value(drift, f"seam_ratio_{what}") < 1.5, "it has no seams"
    (away,) = (v for k, v in drift.series.items() if k.startswith("colour away"))
    assert away[-1] == max(away[16:])


def test_structure_that_changes_is_a_drift_of_content(backends: Backends) -> None:
    """First a man in a car, then a bicycle race; both have the same colours."""
    man = carphone()[:32:2]
    race = real_frames("bikes", 16, 352)[:, : man.shape[1], : man.shape[2]]
    matched = race - race.mean((0, 1, 2)) + man.mean((0, 1, 2))
    video = np.concatenate([man, matched.clip(0, 255).astype(np.uint8)])
    changed = score(video, clip_frames=16, fps=30, backends=backends)
    assert value(changed, "content_drift") > 0.3
    assert value(changed, "colour_drift") < 5


def test_values_over_time_have_their_lengths(scores: dict[str, Scores]) -> None:
    for name, values in scores["real"].series.items():
        of_pairs = name.startswith(("difference", "left over", "motion")) or "neighbour" in name
        assert len(values) == FRAMES - of_pairs, name


@pytest.mark.parametrize(
    ("video", "options", "words"),
    [
        (np.zeros((2, 32, 32, 3), np.uint8), {}, ("2 frames", "3 or more")),
        (np.zeros((4, 8, 32, 3), np.uint8), {}, ("32x8", "16 pixels")),
        (np.zeros((4, 32, 32), np.uint8), {}, ("frame 0", "[32, 32]", "uint8")),
        (np.zeros((4, 32, 32, 3), np.float32), {}, ("frame 0", "float32")),
        ([np.zeros((32, s, 3), np.uint8) for s in (32, 32, 34)], {}, ("frame 2", "34x32")),
        (np.zeros((4, 32, 32, 3), np.uint8), {"borders": [4]}, ("frame 4 of 4", "1 to 3")),
        (iter(np.zeros((4, 32, 32, 3), np.uint8)), {"borders": [4]}, ("frame 4 of 4", "1 to 3")),
        (np.zeros((4, 32, 32, 3), np.uint8), {"fps": 0}, ("0.0 frames a second", "above 0")),
        (
            np.zeros((4, 32, 32, 3), np.uint8),
            {"clip_frames": 0},
            ("clips of 0 frames", "1 or more"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    video: Any, options: dict[str, Any], words: tuple[str, ...], backends: Backends
) -> None:
    with pytest.raises(EvaluationError) as refused:
        score(video, backends=backends, **options)
    for word in words:
        assert word in str(refused.value)


def test_what_has_no_value_says_why(backends: Backends) -> None:
    video = real_frames("carphone_pristine", 6, 64)[:, :48]
    for options, why in (({}, "no border"), ({"clip_frames": 1}, "every pair is at a border")):
        notes = {m.name: m.note for m in score(video, backends=backends, **options).measures}
        assert why in notes["seam_ratio_motion"]
    for num_frames, why in (
        (32, "the first frames have none"),
        (31, "shorter than twice 16 frames"),
    ):
        still = score(np.zeros((num_frames, 32, 32, 3), np.uint8), borders=[2], backends=backends)
        (change,) = (m for m in still.measures if m.name == "contrast_change")
        assert (change.value, change.note) == (None, why)


def test_drift_is_held_against_as_many_frames_whatever_the_borders(backends: Backends) -> None:
    video = real_frames("carphone_pristine", 40, 64)[:, :48]
    drifts = [
        {
            name: v
            for name, v in score(video, backends=backends, **told).values().items()
            if "drift" in name
        }
        for told in ({}, {"borders": [20]}, {"clip_frames": 8})
    ]
    assert len(drifts[0]) == 4 and drifts[0] == drifts[1] == drifts[2]


def test_a_subject_without_scenes_wants_a_scene(backends: Backends) -> None:
    with pytest.raises(EvaluationError, match="mean has no scenes: give a scene"):
        Backends(Mean(), backends.flow)
    assert Backends(Mean(), backends.flow, Mean()).scene is not None


def test_memory_does_not_hold_the_video(backends: Backends) -> None:
    """Of the frames of a long video only a few are alive at a time."""
    alive = largest = 0

    class Counted(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            nonlocal alive
            if self.base is None:
                alive -= 1

    def frames() -> Any:
        nonlocal alive, largest
        rng = np.random.default_rng(0)
        for _ in range(40):
            frame = np.ndarray.__new__(Counted, (32, 32, 3), np.uint8)
            frame[:] = rng.integers(0, 256, frame.shape)
            alive += 1
            largest = max(largest, alive)
            yield frame

    assert score(frames(), backends=backends).num_frames == 40
    assert largest <= 14
