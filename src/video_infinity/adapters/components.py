"""Load one part of a model: quietly, from safetensors alone, with errors in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch

from video_infinity.adapters.files import read_json, weight_files
from video_infinity.context.slices import TokenSite
from video_infinity.errors import ModelError

_MOST_TOKENS = 2**16


@contextmanager
def silenced() -> Iterator[None]:
    """No bars and no advice from the loading libraries: every rank would repeat them."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity(logging.ERROR)
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def load_part(part: Any, directory: Path, dtype: torch.dtype) -> Any:
    """A component by its class, from a directory. A lone half-precision variant is taken.

    Raises ModelError if the weights are missing, broken, or do not fit the config.
    """
    files = weight_files(directory)
    variant = "fp16" if all(".fp16." in f".{file.name}" for file in files) else None
    options = {"torch_dtype" if part.__module__.startswith("diffusers") else "dtype": dtype}
    try:
        with silenced():
            loaded, info = part.from_pretrained(
                directory,
                use_safetensors=True,
                variant=variant,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (AssertionError, MemoryError):
        raise
    except Exception as error:  # the libraries let through what Python says to a spoilt config
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{directory} does not load as {part.__name__}: its weights are broken or do not fit "
            f"the config; fetch or save it again ({reason})"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{directory} lacks {len(missing)} weights, among them {missing[0]}")
    return loaded


def load_tokenizer(directory: Path, max_length: int | None = None) -> Any:
    """A tokenizer from a directory, whatever its class.

    max_length  tokens of a prompt; None is the tokenizer's own
    Raises ModelError if it cannot be read, or cannot fill a prompt up to its length.
    """
    from transformers import AutoTokenizer

    try:
        with silenced():
            loaded = AutoTokenizer.from_pretrained(directory)
            length = loaded.model_max_length if max_length is None else max_length
            if length > _MOST_TOKENS:
                raise ValueError("it has no model_max_length")
            loaded(["a"], padding="max_length", max_length=length, truncation=True)
            return loaded
    except Exception as error:  # of any kind: the tokenizers' Rust raises Exception itself
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{directory} holds no tokenizer that loads ({reason})") from error


@contextmanager
def reading_text(name: str) -> Iterator[None]:
    """Text encoders that load and then do not compute have configs that were spoilt.

    Raises ModelError for those; what a device says of itself goes through.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _refuses_its_input(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"the text encoder of {name} does not read what its tokenizer writes ({reason}); fetch "
            "or save the model again"
        ) from error


def _refuses_its_input(error: RuntimeError) -> bool:
    """Whether PyTorch says so of shapes or types: it has classes of their own for most that a
    device says, and tells of the CPU's memory, and of CUDA's libraries, in words."""
    of_a_device = ("allocate memory", "CUDA", "cuDNN")
    return type(error) is RuntimeError and not any(word in str(error) for word in of_a_device)


def place(module: Any, device: torch.device, *, offload: bool) -> None:
    """Put a denoiser on a device, or leave its weights on the CPU and bring them block by block."""
    if device.type == "cuda":
        prefer_channels_last(module)
    if not offload:
        module.to(device)
        return
    module.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )


def prefer_channels_last(module: torch.nn.Module) -> None:
    """Weights of 2-D convolutions with channels innermost, as tensor cores want them.

    Module.to takes one format for all weights, and those of 3-D convolutions have another.
    """
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compile_blocks(denoiser: torch.nn.Module, kinds: tuple[type[torch.nn.Module], ...]) -> None:
    """Let torch.compile have every module of these kinds, when it is first called."""
    for module in denoiser.modules():
        if isinstance(module, kinds):
            module.compile()


def feed_forward_site(block: Any, attribute: str) -> TokenSite:
    """A transformer block's feed-forward, with the channels of its widest tensor."""
    first = getattr(block, attribute).net[0].proj
    return TokenSite(block, attribute, getattr(first, "base_layer", first).out_features)


def working_device(pipe: Any, denoiser: Any) -> torch.device:
    """Where a loaded pipeline computes, which is not where offloaded weights are."""
    device: torch.device = getattr(pipe, "_execution_device", denoiser.device)
    return device


def as_levels(picture_FCHW: torch.Tensor) -> torch.Tensor:
    """A decoder's pictures in [-1, 1] as uint8 [F, H, W, 3] on the CPU."""
    level = (picture_FCHW.float() / 2 + 0.5).clamp(0, 1) * 255
    pictures_FHWC = level.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    if not pictures_FHWC.is_cuda:
        return pictures_FHWC
    # Pinned memory is copied to without a detour, and PyTorch keeps it for the next chunk.
    host_FHWC = torch.empty(pictures_FHWC.shape, dtype=torch.uint8, pin_memory=True)
    return host_FHWC.copy_(pictures_FHWC)


def load_scheduler(directory: Path, changes: dict[str, Any]) -> Any:
    """A diffusers scheduler from its config, with a preset's changes on top.

    Raises ModelError if diffusers has no scheduler of the declared class.
    """
    config = read_json(directory / "scheduler_config.json") | changes
    named = config.get("_class_name")
    scheduler: Any = getattr(diffusers, str(named), None)
    base: Any = diffusers.SchedulerMixin
    if scheduler is None or base not in getattr(scheduler, "__mro__", ()):
        raise ModelError(f"{directory} names no scheduler of diffusers: {named}")
    try:
        with silenced():
            return scheduler.from_config(config)
    except (AssertionError, MemoryError):
        raise
    except Exception as error:  # the libraries let through what Python says to a spoilt config
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{directory} does not load as {named} ({reason}); mend it") from error
