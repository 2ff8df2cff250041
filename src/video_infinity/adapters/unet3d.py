"""The family of `UNet3DConditionModel`: VideoCrafter2, ModelScope, ZeroScope, the embedded demo.

A 2-D autoencoder: one latent frame is one pixel frame.

Legend: B batch, C channels, F frames, H height, W width, S text tokens, D text channels
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from safetensors import safe_open
from torch import nn
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
    working_device,
)
from video_infinity.adapters.files import count_weights, read_json, weight_files
from video_infinity.adapters.footprint import Footprint, Workload, trace
from video_infinity.adapters.lora import merge_lora
from video_infinity.adapters.registry import ModelFiles
from video_infinity.adapters.unet3d_facts import FPS_PREFIX, facts_of, has_fps
from video_infinity.config import ModelSpec
from video_infinity.context.chunks import ChunkStream
from video_infinity.context.frame_times import FrameTimeSite
from video_infinity.context.install import ModuleSite, Sites
from video_infinity.context.text import FrameText
from video_infinity.errors import ModelError

DEFAULT_FPS_CONDITION = 24


TRACED_TOKENS = 77
"""Of a text, where only shapes are traced: as many as CLIP reads."""


class TimeEmbeddingWithFps(nn.Module):
    """The time embedding plus that of the frame rate, as VideoCrafter2 was trained.

    Takes the place of the denoiser's `time_embedding`; `fps_embedding` maps a sinusoidal
    projection of the frame rate to the same channels.
    """

    def __init__(self, time_embedding: nn.Module, fps_embedding: nn.Module, fps: int) -> None:
        super().__init__()
        self.time_embedding, self.fps_embedding, self.fps = time_embedding, fps_embedding, fps

    def forward(self, sample: torch.Tensor, condition: Any = None) -> torch.Tensor:
        channels = cast(Any, self.fps_embedding).linear_1.in_features
        project = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        fps = project(torch.tensor([float(self.fps)], device=sample.device)).to(sample.dtype)
        emb = self.time_embedding(sample, condition) + self.fps_embedding(fps)
        return cast(torch.Tensor, emb)


class UNet3DAdapter:
    """A loaded model of this family; see `adapters.base.Adapter` for the contract.

    text_encoder, tokenizer  None on a rank that reads no text
    device                   where the denoiser works, which need not be where its weights are
    """

    def __init__(
        self,
        facts: ModelFacts,
        unet: UNet3DConditionModel,
        vae: AutoencoderKL,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        device: torch.device,
    ) -> None:
        self.facts, self._device = facts, device
        self.unet, self.vae = unet, vae
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self._scheduler = scheduler
        for module in (unet, vae, text_encoder):
            if module is not None:
                module.eval()

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, self.unet.dtype)

    def make_scheduler(self) -> Any:
        return copy.deepcopy(self._scheduler)

    def sites(self) -> Sites:
        return sites_of(self.unet)

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        with reading_text(self.facts.name):
            return self._encode(prompts)

    @torch.inference_mode()
    def _encode(self, prompts: Sequence[str]) -> torch.Tensor:
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        wants_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        states = self.text_encoder(
            tokens.input_ids.to(self.device),
            attention_mask=tokens.attention_mask.to(self.device) if wants_mask else None,
        )
        return cast(torch.Tensor, states[0])

    def truncated(self, prompt: str) -> bool:
        """Whether the text encoder sees less than the whole prompt."""
        ids = self.tokenizer([prompt], truncation=False, verbose=False).input_ids[0]
        return bool(len(ids) > self.tokenizer.model_max_length)

    def denoise(
        self, z_BCFHW: torch.Tensor, timestep: torch.Tensor, text: FrameText
    ) -> torch.Tensor:
        # The sites read every frame's own text, and its own timestep where there are several.
        states_BSD = text.first_frames_BSD.to(self.dtype)
        timestep = timestep.flatten()[0]
        predicted = self.unet(z_BCFHW.to(self.dtype), timestep, states_BSD, return_dict=False)
        return cast(torch.Tensor, predicted[0])

    @contextmanager
    def decoding(self, stream: ChunkStream, *, tiled: bool) -> Iterator[Decode]:
        was_tiled = self.vae.use_tiling
        self.vae.use_tiling = was_tiled or tiled
        try:
            yield self._decode
        finally:
            self.vae.use_tiling = was_tiled

    @torch.inference_mode()
    def _decode(self, z_CFHW: torch.Tensor) -> torch.Tensor:
        scaled = z_CFHW.transpose(0, 1).to(self.device, self.vae.dtype)
        picture_FCHW = self.vae.decode(scaled / self.vae.config.scaling_factor).sample
        return as_levels(picture_FCHW)


def _frame_time_site(unet: Any, resnet: Any) -> FrameTimeSite:
    """A residual block's projection of the time embedding, which it takes frame by frame."""

    def embed(timestep_K: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        embedded = unet.time_embedding(unet.time_proj(timestep_K).to(dtype))
        return cast(
            torch.Tensor, embedded if resnet.skip_time_act else resnet.nonlinearity(embedded)
        )

    return FrameTimeSite(resnet, "time_emb_proj", embed)


def sites_of(unet: nn.Module) -> Sites:
    """Every place where a denoiser of this family looks over time, or reads its text."""
    attention, convs, norms, text = [], [], [], []
    token_wise, frame_wise, sequence_wise, frame_times = [], [], [], []
    for module in unet.modules():
        if isinstance(module, TemporalConvLayer):
            convs += [ModuleSite(module, f"conv{n}") for n in (1, 2, 3, 4)]
        elif isinstance(module, TransformerTemporalModel):
            norms.append(ModuleSite(module, "norm"))
            attention += [a for b in module.transformer_blocks for a in (b.attn1, b.attn2)]
            names = [name for name, _ in module.transformer_blocks.named_children()]
            sequence_wise += [ModuleSite(module.transformer_blocks, name) for name in names]
        elif isinstance(module, Transformer2DModel):
            text += [block.attn2 for block in module.transformer_blocks]
        elif isinstance(module, ResnetBlock2D) and module.time_emb_proj is not None:
            frame_times.append(_frame_time_site(unet, module))
        elif isinstance(module, BasicTransformerBlock):
            token_wise.append(feed_forward_site(module, "ff"))
        elif isinstance(module, nn.ModuleList):
            frame_wise += [
                ModuleSite(module, name)
                for name, child in module.named_children()
                if isinstance(child, ResnetBlock2D | Transformer2DModel)
            ]
    return Sites(
        attention=tuple(attention),
        convs=tuple(convs),
        norms=tuple(norms),
        text=tuple(text),
        frame_wise=tuple(frame_wise),
        sequence_wise=tuple(sequence_wise),
        token_wise=tuple(token_wise),
        frame_times=tuple(frame_times),
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
    with FakeTensorMode():
        unet = UNet3DConditionModel.from_config(config).eval()
        text_SD = torch.empty(TRACED_TOKENS, config["cross_attention_dim"])
        return trace(
            sites_of(unet),
            lambda frames, batch: unet(
                torch.empty(batch, channels, frames, *size),
                torch.tensor(0),
                text_SD.expand(batch, -1, -1),
            ),
            text_SD,
            num_weights=count_weights(files.denoiser) + count_weights(files.base / "vae"),
            num_text_weights=count_weights(files.base / "text_encoder"),
            workloads=workloads,
        )


def load(
    files: ModelFiles, spec: ModelSpec, facts: ModelFacts, *, reads_text: bool
) -> UNet3DAdapter:
    """Read the weights and move them; see `registry.load_model`."""
    dtype = getattr(torch, spec.dtype)
    unet = load_part(UNet3DConditionModel, files.denoiser, dtype)
    vae = load_part(AutoencoderKL, files.base / "vae", dtype)
    text_encoder = tokenizer = None
    if reads_text:
        from transformers import CLIPTextModel

        text_encoder = load_part(CLIPTextModel, files.base / "text_encoder", dtype)
        tokenizer = load_tokenizer(files.base / "tokenizer")
    if files.lora is not None:
        merge_lora(unet, files.lora)
    if has_fps(files.denoiser):
        _add_fps(unet, files.denoiser, spec.fps_condition or DEFAULT_FPS_CONDITION, dtype)
    scheduler = load_scheduler(files.base / "scheduler", files.preset.scheduler)
    if spec.compile_blocks:
        compile_blocks(unet, (ResnetBlock2D, BasicTransformerBlock))
    device = torch.device(spec.device)
    place(unet, device, offload=spec.offload)
    for module in (vae, text_encoder):
        if module is not None:
            module.to(device)
    return UNet3DAdapter(facts, unet, vae, text_encoder, tokenizer, scheduler, device)


def drives(denoiser: Any) -> bool:
    """Whether a loaded denoiser is of this family."""
    return isinstance(denoiser, UNet3DConditionModel)


def wrap(pipe: Any) -> UNet3DAdapter:
    """Drive the modules of a loaded `TextToVideoSDPipeline`."""
    facts = facts_of(type(pipe).__name__, dict(pipe.unet.config), dict(pipe.vae.config), {})
    return UNet3DAdapter(
        facts,
        pipe.unet,
        pipe.vae,
        pipe.text_encoder,
        pipe.tokenizer,
        pipe.scheduler,
        working_device(pipe, pipe.unet),
    )


def _add_fps(unet: UNet3DConditionModel, denoiser: Path, fps: int, dtype: torch.dtype) -> None:
    state = {}
    for file in weight_files(denoiser):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (safe_open is not iterable)
                if key.startswith(FPS_PREFIX):
                    state[key.removeprefix(FPS_PREFIX)] = tensors.get_tensor(key)
    channels = unet.config.block_out_channels[0]
    embedding = TimestepEmbedding(channels, 4 * channels)
    try:
        embedding.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{denoiser}: the fps embedding does not fit: {error}") from error
    unet.time_embedding = TimeEmbeddingWithFps(unet.time_embedding, embedding.to(dtype), fps)
