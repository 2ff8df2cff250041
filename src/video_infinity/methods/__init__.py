"""How a long video is made from a model that knows short ones, behind one protocol."""

from types import MappingProxyType

from video_infinity.methods.autoregressive import denoise_autoregressive
from video_infinity.methods.base import DenoiseJob, Method, joins_of_windows
from video_infinity.methods.clip_parallel import denoise_clip_parallel, joins_of_parts
from video_infinity.methods.continuation import joins_of_chunks, steps_of_chunks
from video_infinity.methods.direct import denoise_direct
from video_infinity.methods.fifo import denoise_fifo, steps_of_fifo
from video_infinity.methods.freenoise import denoise_freenoise
from video_infinity.methods.in_fronts import staggered_scheduler, steps_in_fronts
from video_infinity.methods.independent import denoise_independent, joins_of_clips
from video_infinity.methods.masked_continuation import denoise_masked_continuation
from video_infinity.methods.multidiffusion import denoise_multidiffusion

METHODS: MappingProxyType[str, Method] = MappingProxyType(
    {
        "clip-parallel": Method(
            denoise_clip_parallel, steps_in_fronts, staggered_scheduler, joins_of_parts
        ),
        "direct": Method(denoise_direct),
        "independent": Method(denoise_independent, joins=joins_of_clips),
        "freenoise": Method(denoise_freenoise, joins=joins_of_windows),
        "multidiffusion": Method(denoise_multidiffusion, joins=joins_of_windows),
        "autoregressive": Method(
            denoise_autoregressive, steps_of_chunks, joins=joins_of_chunks, shares_chunks=True
        ),
        "masked-continuation": Method(
            denoise_masked_continuation, steps_of_chunks, joins=joins_of_chunks, shares_chunks=True
        ),
        "fifo": Method(denoise_fifo, steps_of_fifo, shares_chunks=True),
    }
)

__all__ = ["METHODS", "DenoiseJob", "Method"]
