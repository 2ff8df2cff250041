"""A model of step time on many ranks: compute, bytes, latency, stragglers. Numbers on paper.

    python -m benchmarks.scaling

Traces how much each layer exchanges on the real configs (shapes alone), takes the speed of devices
and links from published figures, and prints: the paper's own table of synchronisation beside what
the model says of it, then weak and strong scaling from 8 to 1,024 ranks. docs/scaling.md explains.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet3DConditionModel, WanTransformer3DModel
from torch._subclasses.fake_tensor import FakeTensorMode

from video_infinity.adapters import unet3d, wan
from video_infinity.adapters.footprint import Footprint, trace

BRANCHES, VALUE_BYTES = 2, 2


@dataclass(frozen=True)
class Link:
    """One way between neighbouring ranks: seconds a message, bytes a second."""

    name: str
    latency_s: float
    bytes_per_s: float


NVLINK = Link("NVLink", 12e-6, 350e9)
PCIE = Link("PCIe 4", 20e-6, 20e9)
ETHERNET = Link("100 Gb/s", 40e-6, 11e9)
STRAGGLER_SHARE = 0.01
"""Standard deviation of a rank's step time. The slowest of N is sqrt(2 ln N) of it later."""


@dataclass(frozen=True)
class Subject:
    """A model on a device. frame_s: seconds of one latent frame and step, both branches."""

    name: str
    device: str
    frame_s: float
    local_frames: int
    global_frames: int
    footprint: Footprint
    attention_rounds: int
    conv_rounds: int
    norm_rounds: int


def unet_of_videocrafter2() -> tuple[Footprint, tuple[int, int, int]]:
    """What one frame of VideoCrafter2 exchanges at 320x512."""
    with FakeTensorMode():
        model = UNet3DConditionModel(cross_attention_dim=1024, attention_head_dim=64).eval()
        sites, text_SD = unet3d.sites_of(model), torch.empty(77, 1024)
        footprint = trace(
            sites,
            lambda frames: model(torch.empty(1, 4, frames, 40, 64), torch.tensor(0), text_SD[None]),
            text_SD,
            num_weights=0,
            num_text_weights=0,
        )
    return footprint, (len(sites.attention), len(sites.convs), len(sites.norms))


def wan_of(heads: int, layers: int, ffn: int) -> tuple[Footprint, tuple[int, int, int]]:
    """What one latent frame of a Wan transformer exchanges at 480x832."""
    with FakeTensorMode():
        model = WanTransformer3DModel(
            num_attention_heads=heads, num_layers=layers, ffn_dim=ffn
        ).eval()
        sites, text_SD = wan.sites_of([model]), torch.empty(512, 4096)
        footprint = trace(
            sites,
            lambda frames: model(
                torch.empty(1, 16, frames, 60, 104), torch.zeros(1), text_SD[None]
            ),
            text_SD,
            num_weights=0,
            num_text_weights=0,
        )
    return footprint, (len(sites.frame_attention), 0, 0)


@dataclass(frozen=True)
class Step:
    """Seconds of one step, by part."""

    compute: float
    attention: float
    conv: float
    norm: float
    stragglers: float

    @property
    def total(self) -> float:
        return self.compute + self.attention + self.conv + self.norm + self.stragglers


def step_time(subject: Subject, link: Link, ranks: int, frames: float) -> Step:
    """One step of an inner rank with `frames` latent frames, nothing hidden behind compute."""
    value_bytes = BRANCHES * VALUE_BYTES
    own_global = subject.global_frames / ranks
    context = 2 * subject.local_frames + subject.global_frames - own_global
    attention_bytes = context * subject.footprint.attention_values * value_bytes
    conv_bytes = 2 * subject.footprint.conv_values * value_bytes
    moment_bytes = (ranks - 1) * subject.footprint.moment_values * BRANCHES * 4
    hops = math.log2(ranks) if ranks > 1 else 0
    # a rank talks to its neighbours, and to all ranks that own global frames
    peers = min(ranks - 1, 2 + subject.global_frames)
    return Step(
        compute=frames * subject.frame_s,
        attention=attention_bytes / link.bytes_per_s
        + subject.attention_rounds * peers * link.latency_s,
        conv=conv_bytes / link.bytes_per_s + subject.conv_rounds * link.latency_s,
        norm=moment_bytes / link.bytes_per_s
        + (subject.conv_rounds + subject.norm_rounds) * (1 + hops) * link.latency_s,
        stragglers=frames * subject.frame_s * STRAGGLER_SHARE * math.sqrt(2 * math.log(ranks))
        if ranks > 1
        else 0.0,
    )


def paper_table(subject: Subject) -> None:
    """The paper's cost of synchronisation (A5000, PCIe, 24 frames a GPU) and the model's.

    The paper's norms carry next to no bytes, so that their cost is that of the calls.
    """
    print("cost of synchronisation over none, VideoCrafter2 on A5000, 24 frames a GPU:")
    seconds = {2: 145.4 / 30, 8: 149.5 / 30}
    for ranks, plain in seconds.items():
        here = Subject(
            subject.name, "A5000", plain / 24, 8, 16, subject.footprint,
            subject.attention_rounds, subject.conv_rounds, subject.norm_rounds,
        )  # fmt: skip
        step = step_time(here, PCIE, ranks, 24)
        shares = {
            "conv": step.conv / plain,
            "norm": step.norm / plain,
            "attention": step.attention / plain,
        }
        said = "  ".join(f"{name} {share:6.1%}" for name, share in shares.items())
        print(f"  {ranks} GPUs  model: {said}  all {sum(shares.values()):6.1%}")
    print("  the paper: conv 5.1, 5.1 %  norm 8.9, 7.1 %  attention 17.4, 20.5 %  all 25.3, 28.6 %")
    rounds = subject.conv_rounds + subject.norm_rounds
    print(f"  the paper's norm is {1e3 * 0.089 * seconds[2] / rounds:.1f} ms a round of {rounds}")


def scaling(subject: Subject, links: Sequence[Link], frames_per_rank: int, total: int) -> None:
    """Weak and strong scaling as efficiency: ideal time over the model's."""
    print(f"\n{subject.name} on {subject.device}, {1e3 * subject.frame_s:.0f} ms a frame and step")
    sizes = (8, 32, 128, 512, 1024)
    print(f"  weak, {frames_per_rank} latent frames a rank" + "".join(f"{n:>8}" for n in sizes))
    for link in links:
        row = [step_time(subject, link, n, frames_per_rank) for n in sizes]
        print(f"    {link.name:24}" + "".join(f"{s.compute / s.total:8.1%}" for s in row))
    print(f"  strong, {total} latent frames" + "".join(f"{n:>8}" for n in sizes))
    for link in links:
        row = [step_time(subject, link, n, total / n) for n in sizes]
        print(f"    {link.name:24}" + "".join(f"{s.compute / s.total:8.1%}" for s in row))


def main() -> None:
    """The command's entry."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "").parse_args()
    footprint, rounds = unet_of_videocrafter2()
    paper_speed = 312 / 30 / 288  # seconds a frame and step: 288 frames a GPU
    unet = Subject("VideoCrafter2, 320x512", "RTX 6000 Ada", paper_speed, 8, 16, footprint, *rounds)
    paper_table(unet)
    # 333 frames (84 latents) in 1,021 s on an A100 with a window of about 21, 50 steps assumed
    small, rounds = wan_of(12, 30, 8960)
    wan_small = Subject("Wan 1.3B, 480x832", "A100", 1021 / 50 / 84, 8, 4, small, *rounds)
    large, rounds = wan_of(40, 40, 13824)
    wan_large = Subject(
        "Wan 14B, 480x832", "A100 (10.8 times 1.3B)", 10.8 * 1021 / 50 / 84, 8, 4, large, *rounds
    )
    links = (NVLINK, PCIE, ETHERNET)
    scaling(unet, links, 24, 2304 * 4)
    scaling(wan_small, links, 16, 251 * 4)
    scaling(wan_large, links, 16, 251 * 4)


if __name__ == "__main__":
    main()
