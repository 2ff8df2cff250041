"""What Wan does around its self-attention.

Legend: B batch, T tokens of all frames, C channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn


class WanAttentionOps:
    """What Wan does around its self-attention; see `context.frame_layers.FrameAttentionOps`."""

    def project(
        self, attn: Any, hidden_BTC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Callable[[], torch.Tensor]]:
        fused: Any = attn.to_qkv(hidden_BTC).chunk(3, -1) if attn.fused_projections else None
        key, value = fused[1:] if fused else (attn.to_k(hidden_BTC), attn.to_v(hidden_BTC))

        def make_queries() -> torch.Tensor:
            return heads(attn.norm_q(fused[0] if fused else attn.to_q(hidden_BTC)))

        def heads(x_BTC: torch.Tensor) -> torch.Tensor:
            return cast(torch.Tensor, x_BTC.unflatten(-1, (attn.heads, -1)))

        return heads(attn.norm_k(key)), heads(value), make_queries

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scale: float | None,
        backend: Any,
    ) -> torch.Tensor:
        attended = dispatch_attention_fn(q, k, v, scale=scale, backend=backend)
        return cast(torch.Tensor, attended)

    def finish(self, attn: Any, hidden_BTC: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, attn.to_out[1](attn.to_out[0](hidden_BTC)))
