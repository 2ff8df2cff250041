"""When each frame begins, if a denoise moves on in fronts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from video_infinity.fronts import Fronts


def test_two_fronts_move_out_from_every_leading_frame() -> None:
    assert Fronts(2, 8).delays(12) == [0, 0, 1, 1, 2, 1, 1, 0, 0, 0, 1, 1]
    assert Fronts(1, 100).delays(6) == [0, 1, 2, 3, 4, 5]
    assert Fronts(1, 1).delays(5) == [0] * 5


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 200))
def test_a_frame_begins_as_far_from_a_leading_one_as_the_front_moves(
    frames: int, span: int, num_frames: int
) -> None:
    delays = Fronts(frames, span).delays(num_frames)
    leading = range(0, num_frames, span)
    expected = [min(abs(f - lead) for lead in leading) // frames for f in range(num_frames)]
    assert delays == expected
    assert Fronts(frames, span).longest_delay(num_frames) == max(delays)


@given(st.integers(1, 9), st.integers(1, 40))
def test_the_wait_does_not_grow_with_the_video(frames: int, span: int) -> None:
    longest = [Fronts(frames, span).longest_delay(n) for n in (span, 3 * span + 1, 1000 * span)]
    assert max(longest) <= (span - 1) // frames
