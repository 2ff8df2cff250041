"""Model families, by what they declare. The only package that imports diffusers."""

from video_infinity.adapters.base import Adapter, ModelFacts
from video_infinity.adapters.registry import (
    PRESETS,
    inspect_model,
    load_model,
    model_fingerprint,
    model_scheduler,
    trace_model,
)

__all__ = [
    "PRESETS",
    "Adapter",
    "ModelFacts",
    "inspect_model",
    "load_model",
    "model_fingerprint",
    "model_scheduler",
    "trace_model",
]
