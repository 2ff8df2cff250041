"""Wan's causal decoder, chunk by chunk on all ranks, equal to diffusers' own frame by frame.

diffusers decodes one latent frame after the other and hands the last two input frames of every
convolution on in a cache. Here a chunk goes through at once, and each convolution takes those two
frames from the chunk before it, which another rank may hold.

Legend: B batch, C channels, F frames, H height, W width
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    unpatchify,
)
from torch import nn

from video_infinity.context.chunks import ChunkStream
from video_infinity.context.install import ModuleSite, swapped


class ChunkedConv(nn.Module):
    """A causal convolution whose left halo comes from the chunk before."""

    def __init__(self, conv: WanCausalConv3d, stream: ChunkStream) -> None:
        super().__init__()
        self.conv, self._stream = conv, stream

    def forward(self, x_BCFHW: torch.Tensor) -> torch.Tensor:
        halo = self._stream.before(self, x_BCFHW, self.conv.kernel_size[0] - 1)
        return cast(torch.Tensor, self.conv(x_BCFHW, halo))


class ChunkedUpsample(nn.Module):
    """Two frames for one, then a picture of twice the size, as one video over all chunks.

    The video's first frame stays one, and no later frame sees it: the convolution over time
    begins, with zeros before it, at the second.
    """

    def __init__(self, resample: WanResample, stream: ChunkStream) -> None:
        super().__init__()
        self.resample, self._stream = resample, stream

    def forward(self, x_BCFHW: torch.Tensor) -> torch.Tensor:
        kept = int(self._stream.is_first)
        first, later = x_BCFHW[:, :, :kept], x_BCFHW[:, :, kept:]
        if later.shape[2]:
            conv = self.resample.time_conv
            halo = self._stream.before(self, later, conv.kernel_size[0] - 1)
            doubled = conv(later, halo).unflatten(1, (2, -1))
            later = doubled.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        x_BCFHW = torch.cat((first, later), 2)
        frames = self.resample.resample(x_BCFHW.transpose(1, 2).flatten(0, 1))
        return cast(torch.Tensor, frames.unflatten(0, (len(x_BCFHW), -1)).transpose(1, 2))


@contextmanager
def chunked(vae: AutoencoderKLWan, stream: ChunkStream) -> Iterator[None]:
    """The decoder with every layer that looks over time reading from `stream`."""
    with ExitStack() as stack:
        for site in _causal_sites(vae.decoder):
            if isinstance(site.module, WanResample):
                layer: nn.Module = ChunkedUpsample(site.module, stream)
            else:
                layer = ChunkedConv(site.module, stream)
            stack.enter_context(swapped(site, layer))
        yield


def _causal_sites(decoder: nn.Module) -> list[ModuleSite]:
    sites = []
    for parent in decoder.modules():
        for name, child in parent.named_children():
            doubles = isinstance(child, WanResample) and child.mode == "upsample3d"
            looks_back = isinstance(child, WanCausalConv3d) and child.kernel_size[0] > 1
            if doubles or (looks_back and not isinstance(parent, WanResample)):
                sites.append(ModuleSite(parent, name))
    return sites


def decode_chunk(vae: Any, z_BCFHW: torch.Tensor, stream: ChunkStream) -> torch.Tensor:
    """Pictures [B, 3, P, H, W] in [-1, 1] of one chunk of latents, inside `chunked`.

    Goes over it in overlapping tiles where `vae.use_tiling` is on and the picture is large.
    """
    rows, columns = (size // vae.spatial_compression_ratio for size in _tile(vae))
    if vae.use_tiling and (z_BCFHW.shape[3] > rows or z_BCFHW.shape[4] > columns):
        out = _decode_tiles(vae, z_BCFHW, stream)
    else:
        stream.part = None
        out = vae.decoder(vae.post_quant_conv(z_BCFHW), first_chunk=stream.is_first)
    if vae.config.patch_size is not None:
        out = unpatchify(out, patch_size=vae.config.patch_size)
    return out.clamp(-1.0, 1.0)


def _tile(vae: Any) -> tuple[int, int]:
    return vae.tile_sample_min_height, vae.tile_sample_min_width


def _decode_tiles(vae: Any, z_BCFHW: torch.Tensor, stream: ChunkStream) -> torch.Tensor:
    """The tiles of diffusers' own tiled decode, each a stream of chunks, blended as it does."""
    ratio, patch = vae.spatial_compression_ratio, vae.config.patch_size or 1
    height, width = _tile(vae)
    strides = vae.tile_sample_stride_height, vae.tile_sample_stride_width
    down, right = (stride // ratio for stride in strides)
    keep_rows, keep_columns = (stride // patch for stride in strides)
    overlap_rows, overlap_columns = height // patch - keep_rows, width // patch - keep_columns
    x_BCFHW = vae.post_quant_conv(z_BCFHW)
    above: list[torch.Tensor] = []
    strips = []
    for top in range(0, z_BCFHW.shape[3], down):
        tiles = []
        for left in range(0, z_BCFHW.shape[4], right):
            stream.part = (top, left)
            tile = x_BCFHW[:, :, :, top : top + height // ratio, left : left + width // ratio]
            tiles.append(vae.decoder(tile, first_chunk=stream.is_first))
        for column, tile in enumerate(tiles):
            if above:
                tiles[column] = tile = vae.blend_v(above[column], tile, overlap_rows)
            if column:
                tiles[column] = vae.blend_h(tiles[column - 1], tile, overlap_columns)
        strips.append(torch.cat([t[:, :, :, :keep_rows, :keep_columns] for t in tiles], -1))
        above = tiles
    size = [n * ratio // patch for n in z_BCFHW.shape[3:]]
    return torch.cat(strips, 3)[:, :, :, : size[0], : size[1]]
