"""Parity and speed on one GPU, at the sizes that users run. `make bench-gpu`.

Builds a random-weight UNet of VideoCrafter2's size and a transformer of Wan 2.1 1.3B's size on the
GPU, checks one pass of each in float32 against the unmodified model on 16 and 21 latent frames,
and prints frame-steps per second of whole denoising steps in bfloat16, for longer and longer
videos. The paper's figure, on eight RTX 6000 Ada, is 2,304 frames x 30 steps in 312 s: 27.7
frame-steps per second and GPU.

    python -m benchmarks.gpu --num-frames 24 96 288

`--small --device cpu` goes the same way with small models, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet3DConditionModel, WanTransformer3DModel

from video_infinity.adapters import unet3d, wan
from video_infinity.comm import SingleCommunicator
from video_infinity.context.install import Sites, installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.context.workspace import Workspace
from video_infinity.plan import Plan, Scopes, split_timeline

PAPER_FRAME_STEPS = 2304 * 30 / 312 / 8
PARITY_TOLERANCE = 1e-3
"""Of the standard deviation, one pass in float32; TF32 is off."""


@dataclass(frozen=True)
class Subject:
    """A denoiser by its size. `size` is rows and columns of a latent frame."""

    name: str
    build: Callable[[], Any]
    sites: Callable[[Any], Sites]
    channels: int
    size: tuple[int, int]
    text: tuple[int, int]
    scopes: Scopes
    short_frames: int
    frames_per_latent: int

    def run(self, model: Any, z: torch.Tensor, text_RSD: torch.Tensor) -> torch.Tensor:
        time_B = torch.full((len(z),), 500.0, device=z.device)
        timestep = time_B[0].long() if self.frames_per_latent == 1 else time_B
        out: torch.Tensor = model(z, timestep, text_RSD, return_dict=False)[0]
        return out


SUBJECTS = (
    Subject(
        "VideoCrafter2 size, 320x512",
        lambda: UNet3DConditionModel(cross_attention_dim=1024, attention_head_dim=64),
        unet3d.sites_of,
        4,
        (40, 64),
        (77, 1024),
        Scopes(8, 16),
        16,
        1,
    ),
    Subject(
        "Wan 2.1 1.3B size, 480x832",
        lambda: WanTransformer3DModel(num_attention_heads=12, num_layers=30, ffn_dim=8960),
        lambda model: wan.sites_of([model]),
        16,
        (60, 104),
        (512, 4096),
        Scopes(8, 4, keeps_first=True),
        21,
        4,
    ),
)
SMALL = (
    Subject(
        "small UNet",
        lambda: UNet3DConditionModel(
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            layers_per_block=1,
            attention_head_dim=8,
            cross_attention_dim=16,
        ),
        unet3d.sites_of,
        4,
        (8, 8),
        (7, 16),
        Scopes(8, 16),
        16,
        1,
    ),
    Subject(
        "small transformer",
        lambda: WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, num_layers=2, ffn_dim=32, text_dim=16
        ),
        lambda model: wan.sites_of([model]),
        16,
        (8, 8),
        (7, 16),
        Scopes(8, 4, keeps_first=True),
        21,
        4,
    ),
)


def context_of(subject: Subject, length: int, text_SD: torch.Tensor, scopes: Scopes) -> ClipContext:
    """One rank's context of a video of that many latent frames, two branches."""
    text = FrameText(torch.stack((text_SD, -text_SD)), ((0,) * length, (1,) * length))
    plan, workspace = Plan(split_timeline(length, 1), scopes), Workspace.of(text_SD.device.type)
    return ClipContext(SingleCommunicator(), plan, text, workspace=workspace)


@torch.inference_mode()
def parity(subject: Subject, model: Any, device: torch.device) -> float:
    """Largest difference to the unmodified model over the standard deviation, in float32."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, subject.channels, subject.short_frames, *subject.size)
    z = torch.randn(shape, generator=generator).to(device)
    text_SD = torch.randn(subject.text, generator=generator).to(device)
    rows = torch.stack((text_SD, -text_SD))
    expected = subject.run(model, z, rows)
    context = context_of(subject, subject.short_frames, text_SD, Scopes(subject.short_frames, 0))
    with installed(subject.sites(model), context):
        ours = subject.run(model, z, rows)
    return float((ours - expected).abs().max() / expected.std())


@torch.inference_mode()
def frame_steps(
    subject: Subject, model: Any, device: torch.device, length: int, repeats: int
) -> float:
    """Pixel frames times steps per second, of the median of whole passes with both branches."""
    z = torch.randn(2, subject.channels, length, *subject.size, device=device, dtype=model.dtype)
    text_SD = torch.randn(subject.text, device=device, dtype=model.dtype)
    rows = torch.stack((text_SD, -text_SD))
    seconds = []
    with installed(subject.sites(model), context_of(subject, length, text_SD, subject.scopes)):
        for repeat in range(repeats + 1):
            _wait(device)
            begin = time.perf_counter()
            subject.run(model, z, rows)
            _wait(device)
            if repeat:
                seconds.append(time.perf_counter() - begin)
    return subject.frames_per_latent * length / statistics.median(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--num-frames", type=int, nargs="+", default=[24, 96, 288])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/bench/gpu.json"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no usable GPU here; --small --device cpu shows that it runs")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = []
    for subject in SMALL if arguments.small else SUBJECTS:
        torch.manual_seed(0)
        with torch.device(device):
            model = subject.build().eval()
        difference = parity(subject, model, device)
        print(f"{subject.name}: one pass differs by {difference:.1e} of the standard deviation")
        assert difference < PARITY_TOLERANCE
        model.to(torch.bfloat16)
        for num_frames in arguments.num_frames:
            length = -(-num_frames // subject.frames_per_latent)
            rate = frame_steps(subject, model, device, length, arguments.repeats)
            rows.append({"model": subject.name, "num_frames": num_frames, "frame_steps": rate})
            print(f"  {num_frames:5} frames  {rate:8.1f} frame-steps per second", flush=True)
        del model
    print(f"the paper, VideoCrafter2 on one of eight RTX 6000 Ada: {PAPER_FRAME_STEPS:.1f}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"device": name, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
