"""Text of every frame: equal states held once, and each frame reading its own."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from video_infinity.comm import SingleCommunicator
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.context.text_layer import FrameTextProcessor
from video_infinity.plan import Plan, Scopes, split_timeline

ROWS, TOKENS, CHANNELS, PIXELS = 4, 5, 8, 6
LAYOUTS = {
    "one prompt": ((0, 0, 0, 0, 0),),
    "prompts over time": ((0, 0, 1, 2, 2),),
    "with guidance": ((3, 3, 3, 3, 3), (0, 0, 1, 2, 2)),
    "a prompt that comes again": ((3, 3, 3, 3, 3), (0, 1, 0, 0, 1)),
    "the negative prompt itself": ((3, 3, 3, 3, 3), (3, 3, 3, 0, 0)),
}


@pytest.fixture
def rows_RSD() -> torch.Tensor:
    return torch.randn(ROWS, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LAYOUTS)
def test_runs_cover_all_frames_in_order_and_are_as_long_as_can_be(
    name: str, rows_RSD: torch.Tensor
) -> None:
    text = FrameText(rows_RSD, LAYOUTS[name])
    flat = [row for rows in LAYOUTS[name] for row in rows]
    assert [row for row, start, stop in text.runs for _ in range(start, stop)] == flat
    assert all(a[2] == b[1] and a[0] != b[0] for a, b in zip(text.runs, text.runs[1:]))  # noqa: B905
    assert text.num_branches == len(LAYOUTS[name])
    first = torch.stack([rows_RSD[rows[0]] for rows in LAYOUTS[name]])
    assert torch.equal(text.first_frames_BSD, first)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("folded", [True, False], ids=["frames in the batch", "frames in a row"])
@pytest.mark.parametrize("reads_states", [True, False])
def test_every_frame_reads_its_own_text(
    name: str, folded: bool, reads_states: bool, rows_RSD: torch.Tensor
) -> None:
    """As if each frame were a call of its own."""
    torch.manual_seed(0)
    attn = Attention(CHANNELS, heads=2, dim_head=4, processor=AttnProcessor2_0()).eval()
    text, inner = FrameText(rows_RSD, LAYOUTS[name]), attn.processor
    branches, frames = len(text.row_BF), len(text.row_BF[0])
    hidden_KPC = torch.randn(branches * frames, PIXELS, CHANNELS)
    flat = [row for rows in text.row_BF for row in rows]
    # What the model hands on is other than what the encoder said, where the site reads it.
    handed = rows_RSD.flip(-1) if reads_states else torch.zeros(1, TOKENS, CHANNELS)
    read = handed if reads_states else rows_RSD
    with torch.no_grad():
        expected = torch.cat(
            [
                inner(attn, hidden_1PC[None], read[row : row + 1])
                for row, hidden_1PC in zip(flat, hidden_KPC, strict=True)
            ]
        )
        plan = Plan(split_timeline(frames, 1), Scopes(0, 0))
        context = ClipContext(SingleCommunicator(), plan, text)
        hidden = hidden_KPC if folded else hidden_KPC.view(branches, frames * PIXELS, CHANNELS)
        processor = FrameTextProcessor(inner, context, reads_states=reads_states)
        ours = processor(attn, hidden, handed)
    assert ours.shape == hidden.shape
    torch.testing.assert_close(ours.view_as(expected), expected)
