"""Quality of a whole video: VBench's formulas, measures for length, and the world's own truth.

    from video_infinity_evaluation import score

    scores = score("clip.mp4", prompt="a red seven moving left on a navy background")

Needs the extra `evaluate`. The core never imports this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from video_infinity_evaluation.errors import EvaluationError
    from video_infinity_evaluation.measuring import score
    from video_infinity_evaluation.passing import Backends, load_backends
    from video_infinity_evaluation.scores import Measure, Scores

__all__ = ["Backends", "EvaluationError", "Measure", "Scores", "load_backends", "score"]

_WHERE = {
    "Backends": "passing",
    "EvaluationError": "errors",
    "Measure": "scores",
    "Scores": "scores",
    "load_backends": "passing",
    "score": "measuring",
}
"""Imported when used: the command has to tell of a missing extra, and the core starts fast."""


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
