"""How a long video is made from a model that knows short ones, behind one protocol."""

from types import MappingProxyType

from video_infinity.methods.base import DenoiseJob, Method
from video_infinity.methods.clip_parallel import denoise_clip_parallel
from video_infinity.methods.independent import denoise_independent

METHODS: MappingProxyType[str, Method] = MappingProxyType(
    {"clip-parallel": denoise_clip_parallel, "independent": denoise_independent}
)

__all__ = ["METHODS", "DenoiseJob", "Method"]
