"""What stands in for a diffusion transformer's attention while its video is spread over ranks.

Legend: B batch, F frames, P tokens of a frame, T = F * P tokens, C channels, H heads,
D head channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from video_infinity.context.exchange import widen
from video_infinity.context.frames import Rotary, dual_scope_frame_attention
from video_infinity.context.layers import ClipContext


class FrameAttentionOps(Protocol):
    """What a model family does around the attention itself, with the module's own parameters."""

    def project(
        self, attn: Any, hidden_BTC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Callable[[], torch.Tensor]]:
        """Keys and values [B, T, H, D], and what makes the queries, once the keys are on their way.

        Normalised, not yet turned by any position.
        """

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float | None,
        backend: Any,
    ) -> torch.Tensor:
        """Full attention over [batch, tokens, H, D] by the kernel that the user has chosen."""

    def finish(self, attn: Any, hidden_BTC: torch.Tensor) -> torch.Tensor:
        """The projection after the attention."""


class DualScopeFrameProcessor:
    """Attention processor of a self-attention over the tokens of one clip's frames.

    Keys travel before they are turned in time, since where a far key stands depends on the
    query, and while the queries are made. `rotary_emb` is the clip's `Rotary`: the model's own
    rotary module is swapped for one
    that gives it.
    """

    _attention_backend: Any = None  # diffusers' `set_attention_backend` writes here
    _parallel_config: Any = None

    def __init__(self, inner: Any, ops: FrameAttentionOps, context: ClipContext) -> None:
        self._ops, self._context = ops, context
        self._attention_backend = getattr(inner, "_attention_backend", None)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: Any = None,
    ) -> torch.Tensor:
        assert encoder_hidden_states is None and attention_mask is None, "not a self-attention"
        context, ops, rotary = self._context, self._ops, rotary_emb
        frames = len(context.clip)
        k, v, make_queries = ops.project(attn, hidden_states)
        k, v = (x.unflatten(1, (frames, -1)) for x in (k, v))
        k = rotary.in_space(k)
        exchange = context.exchange((k, v), dim=1)
        layout = self._layout(rotary, k)
        q = make_queries().unflatten(1, (frames, -1))
        q = rotary.in_time(rotary.in_space(q), layout.query_table)
        around = exchange.wait()
        k, v = widen(k, 0, around, 1), widen(v, 1, around, 1)
        out_BFPHD = self._attended(q, k, v, layout, rotary)
        return ops.finish(attn, out_BFPHD.flatten(3).flatten(1, 2).type_as(hidden_states))

    def _layout(self, rotary: Rotary, k_BFPHD: torch.Tensor) -> Any:
        return self._context.frame_layout(rotary, tokens=k_BFPHD.shape[2], device=k_BFPHD.device)

    def _attended(
        self,
        q_BFPHD: torch.Tensor,
        k_BFPHD: torch.Tensor,
        v_BFPHD: torch.Tensor,
        layout: Any,
        rotary: Rotary,
    ) -> torch.Tensor:
        """What the queries see among the keys at hand, which are turned in space alone."""
        bias = self._context.bias
        return dual_scope_frame_attention(
            q_BFPHD,
            k_BFPHD,
            v_BFPHD,
            layout.key_table,
            layout.blocks,
            rotary=rotary,
            attend=self._attend,
            far_bias=bias.global_ - bias.local,
        )

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        return self._ops.attend(q, k, v, scale, self._attention_backend)
