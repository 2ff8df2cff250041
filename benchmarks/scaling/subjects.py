"""Models by size: what one latent frame exchanges and computes, traced on the configs by shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet3DConditionModel, WanTransformer3DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scaling import published
from benchmarks.scaling.model import Subject, Work
from video_infinity.adapters import inspect_model, unet3d, wan
from video_infinity.adapters.files import read_json
from video_infinity.adapters.footprint import trace
from video_infinity.adapters.registry import EMBEDDED_MODEL
from video_infinity.config import ModelSpec
from video_infinity.context.install import Sites
from video_infinity.plan import Scopes

EMBEDDED_PIXELS, WAN_SIZE = 64, (60, 104)


@dataclass
class _Counted:
    """Operations of one frame that the counter of matrix products does not tell apart."""

    scopes: Scopes
    scores: float = 0.0
    queries: float = 0.0
    local: float = 0.0
    conv: float = 0.0

    def at_attention(self, temporal: bool) -> Callable[..., None]:
        keys_seen = 2 * self.scopes.local_frames + 1

        def hook(module: Any, arguments: Any, options: Any) -> None:
            hidden = arguments[0] if arguments else options["hidden_states"]
            others = arguments[1] if len(arguments) > 1 else options.get("encoder_hidden_states")
            keys = (hidden if others is None else others).shape[1]
            pairs = 4 * hidden.shape[0] * hidden.shape[1] * keys * module.to_q.out_features
            if not temporal:
                self.scores += pairs
                return
            self.scores += pairs * (keys_seen + self.scopes.global_frames)
            self.local += pairs * keys_seen
            tokens = hidden.shape[0] * hidden.shape[1]
            self.queries += 2 * tokens * module.to_q.in_features * module.to_q.out_features

        return hook

    def at_conv(self, module: Any, arguments: Any) -> None:
        x = arguments[0]
        self.conv += 2 * module.weight.numel() * x.numel() / x.shape[1]


@dataclass(frozen=True)
class _Denoiser:
    """Fake weights. run: pass one video of that many latent frames."""

    model: nn.Module
    sites: Sites
    run: Callable[[int], Any]
    text_SD: torch.Tensor
    latent_values: int


def count_work(denoiser: _Denoiser, scopes: Scopes) -> Work:
    """Operations of one latent frame and branch: matrix products as counted, scores by formula."""
    counted, sites = _Counted(scopes), denoiser.sites
    temporal: set[Any] = {*sites.attention, *sites.frame_attention}
    with ExitStack() as stack, torch.no_grad():
        for module in denoiser.model.modules():
            if hasattr(module, "to_q") and hasattr(module, "to_k"):
                hook = counted.at_attention(module in temporal)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        for site in sites.convs:
            conv = list(site.module.children())[-1]
            stack.callback(conv.register_forward_pre_hook(counted.at_conv).remove)
        products = stack.enter_context(FlopCounterMode(display=False))
        denoiser.run(1)
    total = products.get_total_flops() + counted.scores
    return Work(total, counted.conv, counted.queries, counted.local)


def _subject(
    name: str,
    device: str,
    frame_s: float,
    scopes: Scopes,
    denoiser: _Denoiser,
    value_bytes: int = 2,
) -> Subject:
    sites = denoiser.sites
    return Subject(
        name,
        device,
        frame_s,
        scopes,
        trace(
            sites,
            lambda frames, _: denoiser.run(frames),
            denoiser.text_SD,
            num_weights=0,
            num_text_weights=0,
        ),
        count_work(denoiser, scopes),
        denoiser.latent_values,
        attention=len(sites.attention) + len(sites.frame_attention),
        conv=len(sites.convs),
        norm=len(sites.norms),
        value_bytes=value_bytes,
    )


def _unet(config: dict[str, Any], size: tuple[int, int]) -> _Denoiser:
    model = UNet3DConditionModel(**config).eval()
    channels, width = model.config["in_channels"], model.config["cross_attention_dim"]
    text_SD = torch.empty(77, width)

    def run(frames: int) -> Any:
        return model(torch.empty(1, channels, frames, *size), torch.tensor(0), text_SD[None])

    return _Denoiser(model, unet3d.sites_of(model), run, text_SD, channels * math.prod(size))


def videocrafter2() -> Subject:
    """At 320x512, with the paper's scopes."""
    config = {"cross_attention_dim": 1024, "attention_head_dim": 64}
    name, frame_s = "VideoCrafter2, 320x512", published.VIDEOCRAFTER2_FRAME_S
    with FakeTensorMode():
        return _subject(name, "RTX 6000 Ada", frame_s, Scopes(8, 16), _unet(config, (40, 64)))


def embedded(frame_s: float) -> Subject:
    """The embedded model in float32, on one core."""
    facts = inspect_model(ModelSpec(device="cpu"))
    scopes = Scopes(facts.defaults.local_frames, facts.defaults.global_frames)
    side = EMBEDDED_PIXELS // facts.pixels_per_latent
    declared = read_json(EMBEDDED_MODEL / "unet" / "config.json")
    config = {name: value for name, value in declared.items() if not name.startswith("_")}
    with FakeTensorMode():
        return _subject("embedded", "one core", frame_s, scopes, _unet(config, (side, side)), 4)


def _wan(name: str, frame_s: float, heads: int, layers: int, ffn: int) -> Subject:
    with FakeTensorMode():
        model = WanTransformer3DModel(
            num_attention_heads=heads, num_layers=layers, ffn_dim=ffn
        ).eval()
        text_SD = torch.empty(512, 4096)

        def run(frames: int) -> Any:
            return model(torch.empty(1, 16, frames, *WAN_SIZE), torch.zeros(1), text_SD[None])

        denoiser = _Denoiser(model, wan.sites_of([model]), run, text_SD, 16 * math.prod(WAN_SIZE))
        return _subject(name, "A100", frame_s, Scopes(8, 4, keeps_first=True), denoiser)


def wan_small() -> Subject:
    """Wan 2.1 1.3B at 480x832."""
    return _wan("Wan 1.3B, 480x832", published.WAN_SMALL_FRAME_S, 12, 30, 8960)


def wan_large(small: Subject) -> Subject:
    """Wan 14B at 480x832: as many operations a second as the small one."""
    large = _wan("Wan 14B, 480x832", 1.0, 40, 40, 13824)
    return replace(large, frame_s=small.frame_s * large.work.total / small.work.total)
