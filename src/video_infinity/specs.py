"""The parts of a request, as frozen dataclasses that check their values.

A field that is None is the model's, or the method's, to choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from video_infinity.cadence import Cadence
from video_infinity.checks import check_choice, check_range, check_switch, flag, is_utf8, shown
from video_infinity.errors import ConfigError
from video_infinity.mesh import parse_axes
from video_infinity.peers import (
    CONDITIONINGS,
    CUTS,
    METHODS,
    NOISES,
    SCOPE_PARTS,
    options_read,
    parts_left_out,
)
from video_infinity.plan import GLOBAL_RULES
from video_infinity.timeline import MAX_FRAMES

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class ModelSpec:
    """Which weights, from where, on what.

    model          embedded name, preset, directory or hub id in diffusers format
    unet, lora     directory or hub id of another denoiser, of low-rank updates
    fps_condition  frames per second that VideoCrafter2's denoiser is told
    offload        keep the denoiser's weights on the CPU, and bring them to the GPU by blocks
    compile_blocks let torch.compile have the denoiser's repeated blocks
    """

    model: str = "demo"
    unet: str | None = None
    revision: str | None = None
    lora: str | None = None
    fps_condition: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    offload: bool = False
    compile_blocks: bool = False

    def __post_init__(self) -> None:
        for name in ("model", "unet", "revision", "lora"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                told = f"{flag(name)} {shown(value)}"
                raise ConfigError(f"{told} is no name; give one, or leave it out")
        check_range("fps_condition", self.fps_condition, 1, 1000)
        check_choice("device", self.device, DEVICES)
        check_choice("dtype", self.dtype, DTYPES)
        check_switch("offload", self.offload)
        check_switch("compile_blocks", self.compile_blocks)


@dataclass(frozen=True)
class VideoSpec:
    """What the video is a function of, besides the model. Frames and sizes are in pixels.

    guidance_scale_2  for a model's second expert, which takes over at low noise; None: the same
    eta               noise that every step draws anew, of DDIM: 0 none, 1 as much as DDPM
    vae_tiling        decode large pictures in overlapping tiles, which changes them slightly
    """

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    eta: float | None = None
    negative_prompt: str = ""
    initial_latents: Path | None = None
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        check_range("num_frames", self.num_frames, 1, MAX_FRAMES)
        check_range("height", self.height, 1, 2**16)
        check_range("width", self.width, 1, 2**16)
        check_range("seed", self.seed, 0, MAX_SEED)
        check_range("num_inference_steps", self.num_inference_steps, 1, 1000)
        check_range("guidance_scale", self.guidance_scale, 0, 1000, whole=False)
        check_range("guidance_scale_2", self.guidance_scale_2, 0, 1000, whole=False)
        check_range("eta", self.eta, 0, 1, whole=False)
        check_switch("vae_tiling", self.vae_tiling)
        negative = self.negative_prompt
        if not isinstance(negative, str) or not is_utf8(negative):
            raise ConfigError(f"--negative-prompt {shown(negative)} is no text; put quotes")


@dataclass(frozen=True)
class ScopeSpec:
    """Dual-scope attention. Frames are latent frames; biases are additive logits.

    global_rule  "even": the same global frames at every step; "rotating": one place on per step
    bias_switch  training timestep, 0 to 1000: above it global_bias is on, below local_bias
    """

    local_frames: int | None = None
    global_frames: int | None = None
    global_rule: str | None = None
    local_bias: float | None = None
    global_bias: float | None = None
    bias_switch: float | None = None

    def __post_init__(self) -> None:
        check_range("local_frames", self.local_frames, 0, 10**9)
        check_range("global_frames", self.global_frames, 0, 10**6)
        if self.global_rule is not None:
            check_choice("global_rule", self.global_rule, GLOBAL_RULES)
        check_range("local_bias", self.local_bias, -10_000, 10_000, whole=False)
        check_range("global_bias", self.global_bias, -10_000, 10_000, whole=False)
        check_range("bias_switch", self.bias_switch, 0, 1000, whole=False)


@dataclass(frozen=True)
class MethodSpec:
    """How a long video is made from a model of short ones. Frames are latent frames.

    noise          "plain": each frame's own; "freenoise": the first window's, shuffled
    window_frames  what the model sees at once: a clip, a window, a chunk
    stride_frames  from one window to the next
    conditioning   how autoregressive gives a chunk the frames that are there: "clean", at timestep
                   0, or by "replacement", with the noise of every step
    front_frames   frames that a front reaches in a step of clip-parallel; 0: all begin together
    front_span     of a stretch of the timeline that one front moves through, at most
    without        parts of clip-parallel that an ablation leaves out, such as "conv,norm"
    """

    method: str = "clip-parallel"
    noise: str | None = None
    window_frames: int | None = None
    stride_frames: int | None = None
    conditioning: str | None = None
    front_frames: int | None = None
    front_span: int | None = None
    without: str | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, tuple(METHODS))
        if self.noise is not None:
            check_choice("noise", self.noise, NOISES)
        check_range("window_frames", self.window_frames, 1, 10**6)
        check_range("stride_frames", self.stride_frames, 1, 10**6)
        if self.conditioning is not None:
            check_choice("conditioning", self.conditioning, CONDITIONINGS)
        check_range("front_frames", self.front_frames, 0, 10**6)
        check_range("front_span", self.front_span, 1, 10**9)
        width, stride = self.window_frames, self.stride_frames
        if width is not None and stride is not None:
            limit = width - METHODS[self.method].overlaps
            if stride > limit:
                raise ConfigError(
                    f"--stride-frames {stride} with --window-frames {width}: {self.method} needs "
                    f"{limit} at most; lower it"
                )
        if self.without is not None and not isinstance(self.without, str):
            raise ConfigError(f"--without {shown(self.without)} is no text; write conv,norm")
        for part in parts_left_out(self.without):
            check_choice("without", part, (*CUTS, *SCOPE_PARTS))

    @property
    def parts_left_out(self) -> tuple[str, ...]:
        return parts_left_out(self.without)

    @property
    def reads(self) -> frozenset[str]:
        """Options that have an effect, of those that not every method reads."""
        return options_read(self.method, self.noise, self.without)


@dataclass(frozen=True)
class OutputSpec:
    """Where results go; None is nowhere. `fps` is for playback only."""

    output: Path | None = None
    fps: float | None = None
    save_latents: Path | None = None
    report: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_range("fps", self.fps, 0.01, 1000, whole=False)
        check_switch("overwrite", self.overwrite)


@dataclass(frozen=True)
class RunSpec:
    """How the work is shared out. None of it changes the video.

    nproc_per_node       ranks on this machine; None is one per GPU, else 1
    parallel             the mesh, such as "cfg=2,clip=4"; None: all ranks along the clips
    sequential_guidance  branches of the guidance one after the other: less memory, more rounds
    timeout_s            longest wait for another rank
    run_dir              where checkpoints go, and stay; None: beside the output, until it is done
    checkpoint_every     steps, or text as Cadence reads it
    max_restarts         how often a run goes on by itself after a rank has failed
    """

    nproc_per_node: int | None = None
    parallel: str | None = None
    sequential_guidance: bool = False
    timeout_s: float = 600.0
    run_dir: Path | None = None
    checkpoint_every: int | str = "auto"
    max_restarts: int = 0
    quiet: bool = False
    log_json: bool = False

    def __post_init__(self) -> None:
        check_range("nproc_per_node", self.nproc_per_node, 1, 4096, also=", or auto")
        if self.parallel is not None:
            if not isinstance(self.parallel, str):
                told = f"--parallel {shown(self.parallel)}"
                raise ConfigError(f"{told} is no text; write cfg=2,clip=4")
            parse_axes(self.parallel)
        check_switch("sequential_guidance", self.sequential_guidance)
        check_range("timeout_s", self.timeout_s, 1, 10**6, whole=False)
        check_range("max_restarts", self.max_restarts, 0, 1000)
        Cadence.parse(self.checkpoint_every)
        check_switch("quiet", self.quiet)
        check_switch("log_json", self.log_json)
