"""Wan's causal decoder on all ranks at once is diffusers' own, frame by frame and latent by latent.

Pictures are compared as floats: 1e-5 is a thousandth of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn

from tests.distributed.harness import on_threads
from tests.distributed.wan_harness import Case, load, run_of
from tests.tiny_wan import tiny_residual_vae, tiny_vae
from video_infinity.adapters import Adapter
from video_infinity.adapters.wan_facts import DECODE_FRAMES
from video_infinity.adapters.wan_vae import ChunkedUpsample, chunked, decode_chunk
from video_infinity.comm import Communicator
from video_infinity.context.chunks import Chunks, ChunkStream
from video_infinity.context.exchange import fetch
from video_infinity.plan import Plan, Scopes, clips_of_lengths, split_timeline

LAYOUTS: dict[str, Callable[[], AutoencoderKLWan]] = {
    "Wan 2.1": tiny_vae,
    "residual, of Wan 2.2 5B": tiny_residual_vae,
}
TOLERANCE = 1e-5
WRONG_IS_BEYOND = 1e-3
"""What a wrong formula must exceed, a hundred times the tolerance."""


def random_latents(num_frames: int, rows: int = 4, columns: int = 2) -> torch.Tensor:
    shape = (4, num_frames, rows, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def decode_whole(vae: AutoencoderKLWan, z_CFHW: torch.Tensor) -> torch.Tensor:
    """Pictures [3, P, H, W] by diffusers itself."""
    with torch.inference_mode():
        return vae.decode(z_CFHW[None]).sample[0]


def decode_on_ranks(
    make: Callable[[], AutoencoderKLWan],
    z_CFHW: torch.Tensor,
    clip_lengths: Sequence[int],
    chunk_frames: int = DECODE_FRAMES,
) -> torch.Tensor:
    """Pictures [3, P, H, W] from ranks that hold clips of those lengths, as the engine does it."""
    plan = Plan(clips_of_lengths(clip_lengths), Scopes(0, 0))
    chunks = Chunks(plan.num_latent_frames, chunk_frames)

    def work(comm: Communicator, vae: AutoencoderKLWan) -> dict[int, torch.Tensor]:
        stream, clip, pictures = ChunkStream(comm, chunks), plan.clips[comm.rank], {}
        own_CFHW = z_CFHW[:, clip.start : clip.stop]
        with torch.inference_mode(), chunked(vae, stream):
            for round_ in chunks.rounds(comm.size):
                spans = [None if index is None else chunks[index] for index in round_]
                z_of_chunk = fetch(comm, plan, spans, own_CFHW, dim=1)
                index = round_[comm.rank]
                if index is not None and z_of_chunk is not None:
                    stream.begin(index)
                    pictures[index] = decode_chunk(vae, z_of_chunk[None], stream)[0]
        return pictures

    found: dict[int, torch.Tensor] = {}
    for pictures in on_threads(plan.num_ranks, lambda rank: make(), work):
        found |= pictures
    return torch.cat([found[index] for index in range(len(chunks))], 1)


def assert_same(pictures: torch.Tensor, expected: torch.Tensor) -> None:
    assert pictures.shape == expected.shape
    assert float((pictures - expected).abs().max()) < TOLERANCE
    assert expected.std() > 0.05, "a flat picture proves nothing"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_41_latents_are_what_diffusers_decodes_bit_for_bit_alike_on_1_2_3_ranks(
    layout: str,
) -> None:
    make, z_CFHW = LAYOUTS[layout], random_latents(41)
    expected = decode_whole(make(), z_CFHW)
    assert expected.shape[1] == 161
    one, two, three = (
        decode_on_ranks(make, z_CFHW, lengths) for lengths in ((41,), (2, 39), (1, 23, 17))
    )
    assert_same(one, expected)
    assert torch.equal(one, two)
    assert torch.equal(one, three)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 6, 9])
def test_short_videos_are_what_diffusers_decodes(num_frames: int, layout: str) -> None:
    make, z_CFHW = LAYOUTS[layout], random_latents(num_frames)
    expected = decode_whole(make(), z_CFHW)
    assert expected.shape[1] == 4 * num_frames - 3
    for size in range(1, min(num_frames, 3) + 1):
        lengths = [len(clip) for clip in split_timeline(num_frames, size)]
        assert_same(decode_on_ranks(make, z_CFHW, lengths), expected)


@pytest.mark.parametrize("lengths", [(1, 8), (2, 7), (1, 1, 7), (1, 2, 6), (7, 1, 1)])
def test_first_clips_of_one_and_two_latents(lengths: tuple[int, ...]) -> None:
    z_CFHW = random_latents(9)
    assert_same(decode_on_ranks(tiny_vae, z_CFHW, lengths), decode_whole(tiny_vae(), z_CFHW))


@pytest.mark.parametrize("chunk_frames", [3, 5, 20])
def test_chunks_of_another_length_make_the_same_pictures(chunk_frames: int) -> None:
    z_CFHW = random_latents(19)
    pictures = decode_on_ranks(tiny_vae, z_CFHW, (9, 10), chunk_frames)
    assert_same(pictures, decode_whole(tiny_vae(), z_CFHW))


TILES = {
    "overlap in both directions": (32, 32, 16, 24),
    "wide strides": (48, 32, 32, 16),
    "larger than the picture one way": (128, 32, 96, 24),
}
"""Height and width of a tile, and its strides, in pixels of the first layout."""


def with_tiles(
    make: Callable[[], AutoencoderKLWan], sizes: tuple[int, ...]
) -> Callable[[], AutoencoderKLWan]:
    def tiled() -> AutoencoderKLWan:
        vae = make()
        vae.enable_tiling(*(size * vae.config.scale_factor_spatial // 8 for size in sizes))
        return vae

    return tiled


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tiles", TILES)
def test_tiled_pictures_are_those_of_diffusers_tiles(tiles: str, layout: str) -> None:
    make, z_CFHW = with_tiles(LAYOUTS[layout], TILES[tiles]), random_latents(5, 9, 6)
    expected = decode_whole(make(), z_CFHW)
    one, two = (decode_on_ranks(make, z_CFHW, lengths) for lengths in ((5,), (1, 4)))
    assert_same(one, expected)
    assert torch.equal(one, two)
    whole = decode_whole(LAYOUTS[layout](), z_CFHW)
    assert float((expected - whole).abs().max()) > WRONG_IS_BEYOND, "tiles made no difference"


@pytest.mark.parametrize("tiled", [False, True])
def test_what_is_too_bright_is_cut_off_as_diffusers_does(tiled: bool) -> None:
    def bright() -> AutoencoderKLWan:
        vae = with_tiles(tiny_vae, (32, 32, 16, 24))() if tiled else tiny_vae()
        vae.decoder.conv_out.weight.data *= 10
        return vae

    z_CFHW = random_latents(5, 6, 4)
    expected = decode_whole(bright(), z_CFHW)
    assert expected.abs().max() == 1
    assert_same(decode_on_ranks(bright, z_CFHW, (2, 3)), expected)


def test_a_picture_within_one_tile_is_not_tiled() -> None:
    make, z_CFHW = with_tiles(tiny_vae, (64, 64, 48, 48)), random_latents(6)
    assert torch.equal(
        decode_on_ranks(make, z_CFHW, (3, 3)), decode_on_ranks(tiny_vae, z_CFHW, (6,))
    )


@pytest.mark.parametrize("lengths", [(13,), (2, 11), (1, 9, 3)])
def test_the_engine_delivers_the_same_levels_in_order(lengths: tuple[int, ...]) -> None:
    """Latents as the denoiser leaves them, each channel with its mean and deviation."""
    case = Case(clip_lengths={len(lengths): lengths})
    z_CFHW = random_latents(13)

    def deliver(comm: Communicator, adapter: Adapter) -> list[torch.Tensor]:
        run = run_of(case, comm, adapter, num_frames=49, width=16)
        pieces: list[torch.Tensor] = []
        run.deliver_frames(z_CFHW[None, :, run.clip.start : run.clip.stop], pieces.append)
        return pieces

    pieces = on_threads(len(lengths), lambda rank: load(case, rank), deliver)
    assert [bool(of_rank) for of_rank in pieces] == [True] + [False] * (len(lengths) - 1)
    assert [len(piece) for piece in pieces[0]] == [13, 16, 16, 4]
    vae = tiny_vae()
    mean, std = (
        torch.tensor(values).view(-1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    levels = (decode_whole(vae, z_CFHW * std + mean) / 2 + 0.5) * 255
    difference = torch.cat(pieces[0]).permute(3, 0, 1, 2) - levels
    assert float(difference.abs().max()) < 0.5 + 1e-2


def test_no_latent_goes_through_twice_and_never_more_than_a_chunk() -> None:
    """Bounded memory, and no warm-up that is computed in vain."""
    seen: list[int] = []

    def watched() -> AutoencoderKLWan:
        vae = tiny_vae()
        mid: nn.Module = vae.decoder.mid_block
        mid.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2]))
        return vae

    decode_on_ranks(watched, random_latents(41), (2, 39))
    assert sum(seen) == 41
    assert max(seen) == DECODE_FRAMES


def difference(layout: str, num_frames: int = 9) -> float:
    """Largest, of pictures on two ranks from diffusers' own."""
    make, z_CFHW = LAYOUTS[layout], random_latents(num_frames)
    expected = decode_whole(make(), z_CFHW)
    return float((decode_on_ranks(make, z_CFHW, (4, 5)) - expected).abs().max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fails_without_the_halo(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(layout) < TOLERANCE
    monkeypatch.setattr(ChunkStream, "before", lambda self, layer, own, num_frames: None)
    assert difference(layout) > WRONG_IS_BEYOND


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fails_with_a_halo_of_one_frame_twice(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both frames count, the one before the last as well."""
    before = ChunkStream.before

    def last_twice(self: ChunkStream, *given: Any) -> torch.Tensor | None:
        halo = before(self, *given)
        return None if halo is None else halo[:, :, -1:].expand_as(halo)

    monkeypatch.setattr(ChunkStream, "before", last_twice)
    assert difference(layout) > WRONG_IS_BEYOND


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fails_when_the_first_frame_is_doubled_as_the_others(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one of the two cut off, so that the number of pictures is right."""

    def doubled(self: ChunkedUpsample, x_BCFHW: torch.Tensor) -> torch.Tensor:
        halo = self._stream.before(self, x_BCFHW, 2)
        twice = self.resample.time_conv(x_BCFHW, halo).unflatten(1, (2, -1))
        frames = twice.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)[:, :, int(self._stream.is_first) :]
        pictures = self.resample.resample(frames.transpose(1, 2).flatten(0, 1))
        return pictures.unflatten(0, (len(x_BCFHW), -1)).transpose(1, 2)

    monkeypatch.setattr(ChunkedUpsample, "forward", doubled)
    assert difference(layout) > WRONG_IS_BEYOND


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fails_when_the_second_frame_sees_the_first_as_it_doubles(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ChunkedUpsample.forward

    def seeing(self: ChunkedUpsample, x_BCFHW: torch.Tensor) -> torch.Tensor:
        if not self._stream.is_first:
            return forward(self, x_BCFHW)
        conv = self.resample.time_conv
        first = x_BCFHW[:, :, :1]

        class Seeing(nn.Module):
            kernel_size = conv.kernel_size

            def forward(self, later: torch.Tensor, halo: Any) -> Any:
                assert halo is None
                return conv(later, first)

        self.resample.time_conv = Seeing()
        try:
            return forward(self, x_BCFHW)
        finally:
            self.resample.time_conv = conv

    monkeypatch.setattr(ChunkedUpsample, "forward", seeing)
    assert difference(layout) > WRONG_IS_BEYOND


def test_the_decoder_is_itself_again_afterwards() -> None:
    vae, z_CFHW = tiny_vae(), random_latents(5)
    expected, modules = decode_whole(vae, z_CFHW), list(vae.modules())
    decode_on_ranks(lambda: vae, z_CFHW, (5,))
    assert torch.equal(decode_whole(vae, z_CFHW), expected)
    assert all(a is b for a, b in zip(vae.modules(), modules, strict=True))
