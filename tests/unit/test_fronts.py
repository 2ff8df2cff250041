"""When each frame begins, if a denoise moves on in fronts."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from video_infinity.fronts import Fronts


def test_a_front_moves_through_every_stretch_from_its_first_frame() -> None:
    assert Fronts(1, 100).delays(5) == [0, 1, 2, 3, 4]
    assert Fronts(2, 8).delays(12) == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]
    assert Fronts(1, 4).delays(9) == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert Fronts(1, 1).delays(5) == [0] * 5


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 20000))
def test_the_wait_does_not_grow_with_the_video(frames: int, span: int, num_frames: int) -> None:
    delays = Fronts(frames, span).delays(num_frames)
    assert len(delays) == num_frames and delays[0] == 0
    assert all(b in (a, a + 1, 0) for a, b in itertools.pairwise(delays))
    assert Fronts(frames, span).longest_delay(num_frames) == max(delays) <= (span - 1) // frames


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 120), st.integers(1, 12))
def test_a_pass_is_about_the_frames_that_take_a_step_and_their_neighbours(
    frames: int, span: int, num_frames: int, steps: int
) -> None:
    fronts, reach = Fronts(frames, span), num_frames % 7
    delays, sizes = fronts.delays(num_frames), fronts.sizes(num_frames, steps, reach)
    taken = [0] * num_frames
    for done, size in enumerate(sizes):
        parts = fronts.parts(num_frames, done, steps, reach)
        assert all(a.stop < b.start for a, b in itertools.pairwise(parts)), "they do not touch"
        active = [f for f, delay in enumerate(delays) if delay <= done < delay + steps]
        expected = [f for f in range(num_frames) if any(abs(f - a) <= reach for a in active)]
        assert [frame for part in parts for frame in part] == expected
        assert size == len(expected)
        for frame in active:
            taken[frame] += 1
    assert taken == [steps] * num_frames


def test_the_work_of_one_front_is_linear_in_the_length() -> None:
    work = [sum(Fronts(4, n).sizes(n, 10, 8)) / n for n in (200, 400, 800, 1600)]
    assert max(work) < 10 + 2 * 8 / 4 + 1, "the steps, and the local scopes beside them"
