"""Long video from short-clip models, on as many devices as there are."""

from typing import TYPE_CHECKING, Any

from video_infinity import errors
from video_infinity.errors import VideoInfinityError

if TYPE_CHECKING:
    from video_infinity.pipeline import VideoInfinityPipeline
    from video_infinity.timeline import PromptTimeline
    from video_infinity.video import Video

__all__ = ["PromptTimeline", "Video", "VideoInfinityError", "VideoInfinityPipeline", "errors"]

_LAZY = {
    "PromptTimeline": "video_infinity.timeline",
    "Video": "video_infinity.video",
    "VideoInfinityPipeline": "video_infinity.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import the API when it is used, so that `video-infinity --help` need not."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'video_infinity' has no attribute {name!r}")
