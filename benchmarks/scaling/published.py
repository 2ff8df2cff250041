"""Figures that others have published, each with its source, and what is assumed."""

from __future__ import annotations

from benchmarks.scaling.model import Link, straggling_of_rows

NVLINK = Link("NVLink", 10e-6, 230e9)
"""A100: 9.9 us for 8 bytes by sendrecv_perf (NVIDIA/nccl-tests issue 331), 230 GB/s
(NVIDIA/nccl-tests issue 149, a maintainer)."""

PCIE = Link("PCIe 4 x16", 42e-6, 20e9)
"""42 us for 8 bytes over eight cards (NVIDIA/nccl issue 1530); 41 GB/s in both directions together
with peer access (tinygrad/open-gpu-kernel-modules issue 6), half of it each way."""

ETHERNET = Link("100 Gb/s Ethernet", 34e-6, 12e9)
"""34 us for 256 bytes between two machines (NVIDIA/nccl-tests issue 214); 12 GB/s a port
(NVIDIA/nccl-tests issue 119, a maintainer)."""

PAPER_PLAIN_S = {2: 145.4, 8: 149.5}
"""The paper's runs without any exchange, A5000, by the number of GPUs."""
PAPER_STEPS = 30
PAPER_COST = {
    2: {"conv": 0.051, "norm": 0.089, "attention": 0.174, "full": 0.253},
    8: {"conv": 0.051, "norm": 0.071, "attention": 0.205, "full": 0.286},
}
"""The paper's cost of synchronisation, over plain (arXiv 2406.16260)."""

STRAGGLING = straggling_of_rows(PAPER_PLAIN_S)
"""Clips without any exchange take longer on eight GPUs than on two: of more, the slowest is later.
From two figures alone."""

VIDEOCRAFTER2_FRAME_S = 312 / PAPER_STEPS / 288
"""RTX 6000 Ada: 2,304 frames x 30 steps in 312 s on eight (the paper). Its exchange and its decode
are in it, so that it is an upper bound."""

WAN_SMALL_FRAME_S = 1021 / 50 / 84
"""A100: 333 frames (84 latent) of Wan 1.3B with a window of 21 latent frames in 1,021 s, as
published by LVSA; 50 steps are assumed."""

A5000_BYTES_PER_S = 768e9
"""Memory of the A5000, by its data sheet."""
