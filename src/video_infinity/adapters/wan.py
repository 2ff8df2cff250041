"""The family of `WanTransformer3DModel`: Wan 2.1 text to video, Wan 2.2 with its two experts.

A diffusion transformer that attends over space and time at once, and a causal autoencoder: the
first latent frame is one pixel frame, every other is four.

Legend: B batch, C channels, F frames, H height, W width, P prompts, S text tokens, D channels,
T tokens of all frames
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch._subclasses.fake_tensor import FakeTensorMode

from video_infinity.adapters.base import Decode, ModelFacts
from video_infinity.adapters.components import (
    as_levels,
    compile_blocks,
    feed_forward_site,
    load_part,
    load_scheduler,
    load_tokenizer,
    place,
    reading_text,
    silenced,
    working_device,
)
from video_infinity.adapters.files import count_weights, read_json, weight_files
from video_infinity.adapters.footprint import Footprint, Workload, trace
from video_infinity.adapters.registry import ModelFiles
from video_infinity.adapters.wan_attention import WanAttentionOps
from video_infinity.adapters.wan_facts import (
    SECOND_EXPERT,
    TRAINED_FRAMES,
    boundary_of,
    facts_of,
)
from video_infinity.adapters.wan_rotary import TimelineRotary, check_formula
from video_infinity.adapters.wan_vae import chunked, decode_chunk
from video_infinity.config import ModelSpec
from video_infinity.context.chunks import ChunkStream
from video_infinity.context.install import ModuleSite, Sites
from video_infinity.context.text import FrameText
from video_infinity.errors import ModelError

TEXT_TOKENS = 512
"""Of a prompt, as diffusers' pipeline reads it; the rest of a shorter one is zeros."""


class WanAdapter:
    """A loaded model of this family; see `adapters.base.Adapter` for the contract.

    experts       the denoiser, or two: for high noise, and for low
    text_encoder  None on a rank that reads no text
    device        where the denoiser works, which need not be where its weights are
    parks_text    keep the text encoder on the CPU while it does not read
    """

    def __init__(
        self,
        facts: ModelFacts,
        experts: Sequence[WanTransformer3DModel],
        vae: AutoencoderKLWan,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        *,
        device: torch.device,
        parks_text: bool = False,
    ) -> None:
        self.facts, self._device = facts, device
        self.experts, self.vae = tuple(experts), vae
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self._scheduler, self._parks_text = scheduler, parks_text
        for module in (*self.experts, vae, text_encoder):
            if module is not None:
                module.eval()

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, self.experts[0].dtype)

    def make_scheduler(self) -> Any:
        return copy.deepcopy(self._scheduler)

    def sites(self) -> Sites:
        return sites_of(self.experts, self.facts.defaults.trained_frames)

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        with reading_text(self.facts.name):
            return self._encode(prompts)

    @torch.inference_mode()
    def _encode(self, prompts: Sequence[str]) -> torch.Tensor:
        tokens = self.tokenizer(
            [prompt_clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        with self._text_encoder_at_hand() as (encoder, device):
            mask_PS = tokens.attention_mask.to(device)
            states = encoder(tokens.input_ids.to(device), mask_PS).last_hidden_state
            read: torch.Tensor = states.masked_fill(mask_PS[..., None] == 0, 0).to(self.device)
        return read

    @contextmanager
    def _text_encoder_at_hand(self) -> Iterator[tuple[Any, torch.device]]:
        encoder = self.text_encoder
        if self._parks_text:
            encoder.to(self.device)
        try:
            yield encoder, encoder.device
        finally:
            if self._parks_text:
                encoder.to("cpu")

    def truncated(self, prompt: str) -> bool:
        ids = self.tokenizer([prompt_clean(prompt)], truncation=False, verbose=False).input_ids[0]
        return len(ids) > TEXT_TOKENS

    def denoise(
        self, z_BCFHW: torch.Tensor, timestep: torch.Tensor, text: FrameText
    ) -> torch.Tensor:
        boundary = self.facts.expert_boundary
        low_noise = boundary is not None and float(timestep) < boundary
        timestep_BT = self._per_token(z_BCFHW, timestep.to(z_BCFHW.device))
        expert = self.experts[1] if low_noise else self.experts[0]
        predicted = expert(
            z_BCFHW.to(self.dtype),
            timestep_BT,
            text.rows_RSD.to(self.dtype),  # embedded row by row; the sites read every frame's own
            return_dict=False,
        )
        return cast(torch.Tensor, predicted[0])

    def _per_token(self, z_BCFHW: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """One timestep for every video, or for every token, as diffusers' transformer takes it."""
        batch, _, _, height, width = z_BCFHW.shape
        if timestep.numel() == 1:
            return timestep.expand(batch)
        _, rows, columns = self.experts[0].config.patch_size
        tokens = height // rows * (width // columns)
        return timestep.repeat_interleave(tokens).expand(batch, -1)

    @contextmanager
    def decoding(self, stream: ChunkStream, *, tiled: bool) -> Iterator[Decode]:
        config, was_tiled = self.vae.config, self.vae.use_tiling
        shape = (-1, 1, 1, 1)
        mean, std = (
            torch.tensor(values, device=self.device, dtype=self.vae.dtype).view(shape)
            for values in (config.latents_mean, config.latents_std)
        )

        @torch.inference_mode()
        def decode(z_CFHW: torch.Tensor) -> torch.Tensor:
            z_CFHW = z_CFHW.to(self.device, self.vae.dtype) * std + mean
            picture_CFHW = decode_chunk(self.vae, z_CFHW[None], stream)[0]
            return as_levels(picture_CFHW.transpose(0, 1))

        self.vae.use_tiling = was_tiled or tiled
        try:
            with chunked(self.vae, stream):
                yield decode
        finally:
            self.vae.use_tiling = was_tiled


def sites_of(
    experts: Sequence[WanTransformer3DModel], trained_frames: int = TRAINED_FRAMES
) -> Sites:
    """Every place where denoisers of this family look over time, or read their text.

    trained_frames  latent frames of the videos that they were trained on
    """
    blocks: list[Any] = [block for expert in experts for block in expert.blocks]
    return Sites(
        frame_attention=tuple(block.attn1 for block in blocks),
        frame_ops=WanAttentionOps(),
        embedded_text=tuple(block.attn2 for block in blocks),
        token_wise=tuple(feed_forward_site(block, "ffn") for block in blocks),
        swaps=tuple(
            (ModuleSite(expert, "rope"), TimelineRotary(expert.rope, trained_frames))
            for expert in experts
        ),
    )


def footprint(
    files: ModelFiles,
    facts: ModelFacts,
    height: int,
    width: int,
    workloads: Sequence[Workload] = (),
) -> Footprint:
    """What one frame costs, from the config alone; see `registry.trace_model`."""
    config = read_json(files.denoiser / "config.json")
    channels, *size = facts.latent_shape_CHW(height, width)
    parts = [files.denoiser, files.base / "vae"]
    if facts.expert_boundary is not None:
        parts.append(files.base / SECOND_EXPERT)
    with FakeTensorMode():
        denoiser = WanTransformer3DModel.from_config(config).eval()
        text_SD = torch.empty(TEXT_TOKENS, config["text_dim"])
        return trace(
            sites_of([denoiser]),
            lambda frames, batch: denoiser(
                torch.empty(batch, channels, frames, *size), torch.zeros(batch), text_SD[None]
            ),
            text_SD,
            num_weights=sum(count_weights(part) for part in parts),
            num_text_weights=count_weights(files.base / "text_encoder"),
            workloads=workloads,
        )


def load(files: ModelFiles, spec: ModelSpec, facts: ModelFacts, *, reads_text: bool) -> WanAdapter:
    """Read the weights and move them; see `registry.load_model`.

    The autoencoder stays in float32, as diffusers advises. Text is read on the device, and the
    text encoder is parked on the CPU afterwards: it is larger than a denoiser of 1.3B.
    """
    dtype, device = getattr(torch, spec.dtype), torch.device(spec.device)
    experts = [load_part(WanTransformer3DModel, files.denoiser, dtype)]
    if facts.expert_boundary is not None:
        experts.append(load_part(WanTransformer3DModel, files.base / SECOND_EXPERT, dtype))
    vae = load_part(AutoencoderKLWan, files.base / "vae", torch.float32)
    text_encoder = tokenizer = None
    if reads_text:
        from transformers import UMT5EncoderModel

        text_encoder = load_part(UMT5EncoderModel, files.base / "text_encoder", dtype)
        tokenizer = load_tokenizer(files.base / "tokenizer", TEXT_TOKENS)
    if files.lora is not None:
        fuse_lora(experts, files.lora)
    check_positions(experts, facts.name)
    scheduler = load_scheduler(files.base / "scheduler", files.preset.scheduler)
    if spec.compile_blocks:
        for expert in experts:
            compile_blocks(expert, (WanTransformerBlock,))
    vae.to(device)
    for expert in experts:
        place(expert, device, offload=spec.offload)
    return WanAdapter(
        facts,
        experts,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        device=device,
        parks_text=device.type != "cpu",
    )


_UNFIT = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, OSError)
"""What diffusers' loader raises for files that it was not made for."""


def check_positions(experts: Sequence[WanTransformer3DModel], name: str) -> None:
    """Raise ModelError unless our formula gives the positions of the models' own tables."""
    if not all(check_formula(expert.rope) for expert in experts):
        raise ModelError(
            f"{name}: its positions follow another formula than diffusers' own, which this "
            "engine cannot extend"
        )


def fuse_lora(experts: Sequence[WanTransformer3DModel], directory: Path) -> None:
    """Add low-rank updates to the experts' weights, by diffusers' own loader.

    Files of the directory are for the first expert; those of its folder transformer_2 for the
    second. Raises ModelError if there is none, or one does not fit.
    """
    for expert, folder in zip(experts, (directory, directory / SECOND_EXPERT), strict=False):
        if expert is not experts[0] and not folder.is_dir():
            continue
        pipe: Any = WanPipeline(
            tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=expert
        )
        for file in weight_files(folder):
            try:
                with silenced():
                    pipe.load_lora_weights(str(folder), weight_name=file.name)
                    if not pipe.get_active_adapters():
                        raise ValueError("no layer of this denoiser is named in it")
                    pipe.fuse_lora(components=["transformer"])
                    pipe.unload_lora_weights()
            except _UNFIT as error:
                reason = " ".join(str(error).split())[:200]
                raise ModelError(
                    f"--lora {directory}: {file.name} holds no update that fits ({reason})"
                ) from error


def drives(denoiser: Any) -> bool:
    """Whether a loaded denoiser is of this family."""
    return isinstance(denoiser, WanTransformer3DModel)


def wrap(pipe: Any) -> WanAdapter:
    """Drive the modules of a loaded `WanPipeline`, on the devices where they are."""
    index, scheduler = dict(pipe.config), dict(pipe.scheduler.config)
    boundary = boundary_of(index, scheduler)
    facts = facts_of(
        type(pipe).__name__, dict(pipe.transformer.config), dict(pipe.vae.config), {}, boundary
    )
    experts = [pipe.transformer]
    if boundary is not None:
        if pipe.transformer_2 is None:
            raise ModelError("the pipeline has a boundary_ratio but no second expert")
        experts.append(pipe.transformer_2)
    return WanAdapter(
        facts,
        experts,
        pipe.vae,
        pipe.text_encoder,
        pipe.tokenizer,
        pipe.scheduler,
        device=working_device(pipe, pipe.transformer),
    )
