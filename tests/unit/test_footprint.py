"""What `plan` counts as held: live tensors, and what a CPU's allocator keeps of earlier ones."""

from __future__ import annotations

import torch

from video_infinity.adapters.footprint import _Live


def held(kept_bytes: int) -> float:
    """After 900 small bytes that are gone, 100 small and 4000 large ones."""
    with _Live(large_from=1000) as live:
        early = [torch.zeros(300, dtype=torch.uint8) for _ in range(3)]
        del early
        small = torch.zeros(100, dtype=torch.uint8)
        large = torch.zeros(4000, dtype=torch.uint8)
        view = large[10:].view(-1)
        assert len(small) + len(view) == 4090
    return live.peak_bytes(kept_bytes)


def test_a_device_holds_what_is_alive() -> None:
    assert held(0) == 4100


def test_a_heap_keeps_what_small_tensors_left_up_to_its_limit() -> None:
    assert held(500) == 4600
    assert held(10_000) == 4900


def test_no_tensor_is_nothing() -> None:
    with _Live(large_from=1000) as live:
        pass
    assert live.peak_bytes(1000) == 0
