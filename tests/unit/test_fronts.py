"""When each frame begins, if a denoise moves on in fronts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from video_infinity.fronts import Fronts


def test_two_fronts_move_out_from_the_middle_of_every_stretch() -> None:
    assert Fronts(1, 100).delays(7) == [3, 2, 1, 0, 1, 2, 3]
    assert Fronts(2, 8).delays(12) == [1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1]
    assert Fronts(1, 4).delays(9) == [1, 0, 1, 1, 0, 1, 1, 0, 1]
    assert Fronts(1, 1).delays(5) == [0] * 5


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 200))
def test_a_frame_begins_as_far_from_a_leading_one_as_the_front_moves(
    frames: int, span: int, num_frames: int
) -> None:
    fronts = Fronts(frames, span)
    delays, leading = fronts.delays(num_frames), fronts.leading(num_frames)
    expected = [min(abs(f - lead) for lead in leading) // frames for f in range(num_frames)]
    assert delays == expected
    assert fronts.longest_delay(num_frames) == max(delays)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 20000))
def test_the_wait_does_not_grow_with_the_video(frames: int, span: int, num_frames: int) -> None:
    fronts = Fronts(frames, span)
    assert fronts.longest_delay(num_frames) <= (span // 2) // frames
    assert len(fronts.leading(num_frames)) == -(-num_frames // span), "no more than it takes"
