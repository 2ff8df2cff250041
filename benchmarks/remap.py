"""Where should the keys of far global frames stand, for a transformer with rotary positions?

Trains a small `WanTransformer3DModel` on 21-frame clips of the embedded world (in the latents of
the embedded autoencoder), then measures its error on real videos that are several times as long,
through the engine's dual-scope attention, with one rule after the other. The error is the mean
squared error of the predicted velocity, on the same videos, noise and noise levels for every rule.

    python -m benchmarks.remap --train-steps 1500 --num-frames 121

Continues from its checkpoint. Writes JSON and prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL, WanTransformer3DModel
from torch import Tensor, nn

from training import data
from training.latents import encode
from video_infinity.adapters.registry import EMBEDDED_MODEL
from video_infinity.adapters.wan import sites_of
from video_infinity.comm import SingleCommunicator
from video_infinity.context import frames
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.plan import Plan, Scopes, split_timeline

TRAINED_FRAMES = 21
TEXT_CHANNELS = 32
NOISE_LEVELS = (0.95, 0.8, 0.6, 0.4, 0.2)
BATCH_CLIPS = 8

Rule = Callable[[np.ndarray[Any, Any], int, int, int], np.ndarray[Any, Any]]


def true_positions(offset: Any, length: int, local: int, trained: int) -> Any:
    """Far keys stay where they are, beyond what the model has seen."""
    return offset.astype(np.float64)


def at_the_end(offset: Any, length: int, local: int, trained: int) -> Any:
    """All far keys at the end of the trained range."""
    return np.sign(offset) * np.minimum(np.abs(offset), trained - 1).astype(np.float64)


def in_slots(offset: Any, length: int, local: int, trained: int) -> Any:
    """Far keys in the places next to the local scope, in order, without gaps."""
    side, distance = np.sign(offset), np.abs(offset)
    placed = np.zeros(offset.shape)
    for sign in (-1, 1):
        rank = ((side == sign)[:, None, :] & (distance[:, None, :] <= distance[:, :, None])).sum(2)
        placed = np.where(side == sign, sign * (local + rank.astype(np.float64)), placed)
    return placed


def shrunk_to(share: float) -> Rule:
    """Linear, but into a share of the range between h and T - 1."""

    def rule(offset: Any, length: int, local: int, trained: int) -> Any:
        reach = local + 1 + share * max(0, trained - 2 - local)
        shrink = (reach - local) / max(1, length - 1 - local)
        return np.sign(offset) * (local + (np.abs(offset) - local) * min(1.0, shrink))

    return rule


RULES: dict[str, Rule] = {
    "shrunk linearly": shrunk_to(1.0),
    "shrunk to half of the range": shrunk_to(0.5),
    "in slots next to h": in_slots,
    "true positions": true_positions,
    "all at h + 1 (ours)": frames.near_offsets,
    "cut off at T - 1": at_the_end,
}


def text_rows() -> Tensor:
    """A fixed random vector for each word: [scenes, 4, D]."""
    generator = torch.Generator().manual_seed(5)
    words: dict[str, Tensor] = {}
    rows = []
    for scene in data.SCENES:
        row = []
        for word in (scene.digit, scene.colour, scene.direction, scene.background):
            if word not in words:
                words[word] = torch.randn(TEXT_CHANNELS, generator=generator)
            row.append(words[word])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def build_model() -> WanTransformer3DModel:
    """Small enough to train on a CPU in minutes."""
    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=48,
        in_channels=8,
        out_channels=8,
        text_dim=TEXT_CHANNELS,
        freq_dim=64,
        ffn_dim=384,
        num_layers=4,
    )


def draw_latents(vae: Any, seed: int, count: int, num_frames: int) -> tuple[Tensor, Tensor]:
    """Latents [count, C, F, h, w] of random scenes, and which scenes."""
    generator = torch.Generator().manual_seed(seed)
    clips = data.draw_clips(generator, count, num_frames, data.exemplar_glyphs())
    moment_F = torch.arange(num_frames)
    latents = [
        encode(vae, clips.frames(moment_F, torch.full_like(moment_F, n))) for n in range(count)
    ]
    return torch.stack(latents).transpose(1, 2), clips.scene


def velocity_loss(model: nn.Module, z: Tensor, noise: Tensor, level_B: Tensor, text: Tensor) -> Any:
    """Mean squared error of the velocity of a straight path from data to noise."""
    level = level_B.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * z + level * noise
    predicted = model(noisy, level_B * 1000, text, return_dict=False)[0]
    return nn.functional.mse_loss(predicted.float(), noise - z)


def train(model: WanTransformer3DModel, vae: Any, steps: int, checkpoint: Path) -> None:
    """Flow matching on clips of the trained length; a checkpoint every 100 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
    rows, pool = text_rows(), [draw_latents(vae, s, 16, TRAINED_FRAMES) for s in range(24)]
    begin = time.perf_counter()
    for step in range(done, steps):
        generator = torch.Generator().manual_seed(step)
        if step % 10 == 0:
            pool[(step // 10) % len(pool)] = draw_latents(vae, 1000 + step, 16, TRAINED_FRAMES)
        z, scene = pool[int(torch.randint(len(pool), (1,), generator=generator))]
        chosen = torch.randperm(len(z), generator=generator)[:BATCH_CLIPS]
        noise = torch.randn(z[chosen].shape, generator=generator)
        level = torch.rand(BATCH_CLIPS, generator=generator).clamp(0.02, 0.98)
        with torch.autocast("cpu", torch.bfloat16):
            loss = velocity_loss(model, z[chosen], noise, level, rows[scene[chosen]])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * max(0.05, 1 - step / steps)
        optimizer.step()
        if (step + 1) % 100 == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"done": step + 1}, checkpoint)
            print(f"step {step + 1} loss {loss.item():.4f} {time.perf_counter() - begin:.0f} s")


@torch.no_grad()
def measure(
    model: WanTransformer3DModel, videos: tuple[Tensor, Tensor], scopes: Scopes, rule: Rule
) -> list[float]:
    """The error of every (video, noise level)."""
    z_NCFhw, scene_N = videos
    plan = Plan(split_timeline(z_NCFhw.shape[2], 1), scopes)
    rows, errors = text_rows(), []
    for n, scene in enumerate(scene_N.tolist()):
        text = FrameText(rows[scene : scene + 1], ((0,) * z_NCFhw.shape[2],))
        context = ClipContext(SingleCommunicator(), plan, text)
        noise = torch.randn(z_NCFhw[:1].shape, generator=torch.Generator().manual_seed(n))
        with mock.patch.object(frames, "near_offsets", rule), installed(sites_of([model]), context):
            for level in NOISE_LEVELS:
                loss = velocity_loss(
                    model, z_NCFhw[n : n + 1], noise, torch.tensor([level]), text.rows_RSD
                )
                errors.append(float(loss))
    return errors


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--train-steps", type=int, default=1500)
    parser.add_argument("--num-frames", type=int, default=121)
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--settings", nargs="+", default=["8:4", "4:12"], help="H:G")
    parser.add_argument("--out", type=Path, default=Path("out/remap"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(EMBEDDED_MODEL / "vae").eval()
    model = build_model()
    train(model, vae, arguments.train_steps, arguments.out / "model.pt")
    model.eval()
    videos = draw_latents(vae, 7, arguments.videos, arguments.num_frames)
    length = arguments.num_frames
    cases = {"dense, true positions": (Scopes(length, 0), true_positions)}
    for setting in arguments.settings:
        local, count = map(int, setting.split(":"))
        cases[f"h={local}, no global frames"] = (Scopes(local, 0), true_positions)
        for name, rule in RULES.items():
            cases[f"h={local} |G|={count}, {name}"] = (Scopes(local, count), rule)
    results = {}
    for name, (scopes, rule) in cases.items():
        errors = measure(model, videos, scopes, rule)
        results[name] = errors
        first = results[next(n for n in results if n.split(",")[0] == name.split(",")[0])]
        gaps = [a - b for a, b in zip(errors, first, strict=True)]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        print(
            f"{name:44} {statistics.fmean(errors):.5f}  to the first of its kind "
            f"{statistics.fmean(gaps):+.5f} +- {error:.5f}",
            flush=True,
        )
    (arguments.out / "results.json").write_text(
        json.dumps(vars(arguments) | {"levels": NOISE_LEVELS, "errors": results}, default=str)
    )


if __name__ == "__main__":
    main()
