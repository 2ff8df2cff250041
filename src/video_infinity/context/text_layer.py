"""Cross-attention in which every frame reads a text of its own.

Legend: K frames of all branches, P tokens of a frame, C channels, R rows, S text tokens, D channels
"""

from __future__ import annotations

from typing import Any

import torch

from video_infinity.context.layers import ClipContext


class FrameTextProcessor:
    """Cross-attention in which every frame reads a text of its own; the rest is the model's own.

    Queries are (batch, frame)-major, in whichever way the model folds them; frames of equal text
    go in one call, so that keys and values of a text are made once for all of them.

    reads_states  whether the model hands on embedded text, row by row; else it is the encoder's
    """

    _attention_backend: Any = None  # diffusers' `set_attention_backend` looks for it
    _parallel_config: Any = None

    def __init__(self, inner: Any, context: ClipContext, *, reads_states: bool) -> None:
        self._inner, self._context, self._reads_states = inner, context, reads_states

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *positional: Any,
        **named: Any,
    ) -> torch.Tensor:
        text = self._context.text
        rows_RSD = encoder_hidden_states if self._reads_states else text.rows_RSD
        assert rows_RSD is not None and len(rows_RSD) == len(text.rows_RSD)
        frames = sum(map(len, text.row_BF))
        hidden_KPC = hidden_states.reshape(frames, -1, hidden_states.shape[-1])
        parts = [
            self._inner(
                attn,
                hidden_KPC[start:stop].flatten(0, 1)[None],
                rows_RSD[row : row + 1],
                attention_mask,
                *positional,
                **named,
            )[0]
            for row, start, stop in text.runs
        ]
        return torch.cat(parts).view(*hidden_states.shape[:-1], -1)
