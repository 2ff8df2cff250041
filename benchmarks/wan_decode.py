"""What does it cost to decode a long video with Wan's causal autoencoder, on one rank and on more?

Three ways, each in fresh processes of one thread, on random latents and weights of Wan 2.1's
layout at a quarter of its channels:

    whole     diffusers' own `decode` of the whole video, on one rank
    warm-up   each rank decodes its clip after the 38 latent frames before it, and drops those
    chunks    ours: chunks in turn, layer by layer together (context/chunks.py)

    python -m benchmarks.wan_decode --latent-frames 41 81 161 --ranks 1 2

Writes JSON and prints a table: seconds, and per rank the peak memory above the start.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from benchmarks.world import run_world
from video_infinity.adapters.wan_facts import DECODE_FRAMES
from video_infinity.adapters.wan_vae import chunked, decode_chunk
from video_infinity.comm import Communicator, SingleCommunicator
from video_infinity.comm.process import joined_world
from video_infinity.context.chunks import Chunks, ChunkStream
from video_infinity.context.exchange import fetch
from video_infinity.memory import PeakMemory
from video_infinity.plan import Plan, Scopes, split_timeline

REACH_FRAMES = 38
"""Latent frames before it that a latent frame's pictures depend on."""


def build_vae() -> AutoencoderKLWan:
    """Wan 2.1's layout, with a quarter of its channels."""
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=24).eval()


def latents_of(start: int, stop: int, size: int) -> torch.Tensor:
    """Random latents [C, F, h, w] that depend on the frame alone."""
    return torch.stack(
        [
            torch.randn(16, size, size, generator=torch.Generator().manual_seed(frame))
            for frame in range(start, stop)
        ],
        dim=1,
    )


def decode_whole(vae: Any, comm: Communicator, length: int, size: int) -> int:
    """Returns how many pictures came out."""
    return int(vae.decode(latents_of(0, length, size)[None]).sample.shape[2])


def decode_warm_up(vae: Any, comm: Communicator, length: int, size: int) -> int:
    """Returns how many pictures of its clip a rank made, by decoding more than that."""
    clip = split_timeline(length, comm.size)[comm.rank]
    first = max(0, clip.start - REACH_FRAMES)
    pictures = vae.decode(latents_of(first, clip.stop, size)[None]).sample.shape[2]
    return int(pictures) - (1 + 4 * (clip.start - first - 1) if first < clip.start else 0)


def decode_chunks(vae: Any, comm: Communicator, length: int, size: int) -> int:
    """Returns how many pictures a rank made. Pictures are dropped as they come."""
    plan = Plan(split_timeline(length, comm.size), Scopes(0, 0))
    clip, chunks, pictures = plan.clips[comm.rank], Chunks(length, DECODE_FRAMES), 0
    z_CFHW = latents_of(clip.start, clip.stop, size)
    stream = ChunkStream(comm, chunks)
    with chunked(vae, stream):
        for round_ in chunks.rounds(comm.size):
            spans = [None if index is None else chunks[index] for index in round_]
            own, index = fetch(comm, plan, spans, z_CFHW, dim=1), round_[comm.rank]
            if index is not None and own is not None:
                stream.begin(index)
                pictures += int(decode_chunk(vae, own[None], stream).shape[2])
    return pictures


WAYS = {"whole": decode_whole, "warm-up": decode_warm_up, "chunks": decode_chunks}


@torch.inference_mode()
def work(way: str, length: int, size: int, comm: Communicator) -> dict[str, Any]:
    """Decode on this rank, measured."""
    vae = build_vae()
    WAYS[way](vae, SingleCommunicator(), 5, size)  # what is allocated once is not of interest
    comm.barrier()
    memory, begin = PeakMemory(torch.device("cpu")), time.perf_counter()
    pictures = WAYS[way](vae, comm, length, size)
    return {
        "seconds": time.perf_counter() - begin,
        "peak_bytes": memory.peak_bytes(),
        "pictures": pictures,
        "bytes_received": comm.bytes_received,
    }


def run(way: str, length: int, size: int, ranks: int) -> list[dict[str, Any]]:
    """The measures of every rank, from fresh processes."""
    words = [way, str(length), str(size)]
    return run_world("benchmarks.wan_decode", words, ranks, {"MALLOC_MMAP_THRESHOLD_": "524288"})


def main() -> None:
    """The command's entry."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--latent-frames", type=int, nargs="+", default=[41, 81, 161])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=8, help="rows and columns of a latent frame")
    parser.add_argument("--out", type=Path, default=Path("out/wan_decode.json"))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        way, length, size = arguments.worker
        torch.set_num_threads(1)
        with joined_world(torch.device("cpu"), timeout_s=600) as comm:
            print(json.dumps(work(way, int(length), int(size), comm)))
        return
    rows = []
    for length in arguments.latent_frames:
        for way in WAYS:
            for ranks in arguments.ranks if way != "whole" else [1]:
                measured = run(way, length, arguments.size, ranks)
                assert sum(row["pictures"] for row in measured) == 4 * (length - 1) + 1
                rows.append({"latents": length, "way": way, "ranks": ranks, "measured": measured})
                seconds = max(row["seconds"] for row in measured)
                peaks = ", ".join(f"{row['peak_bytes'] / 1e6:.0f}" for row in measured)
                print(f"{length:5} {way:8} {ranks} ranks {seconds:7.1f} s  {peaks} MB", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
