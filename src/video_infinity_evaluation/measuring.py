"""The one pass over a video that all measures share.

    scores = score("clip.mp4", prompt="a red seven moving left on a navy background")
    scores["temporal_flickering"], scores.values(), scores.as_dict()

Memory: a few frames, and about 6 KB for each frame of the video.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any

from video_infinity_evaluation import length, vbench
from video_infinity_evaluation.assemble import (
    length_measures,
    look_measures,
    series,
    vbench_measures,
)
from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.flow import MIN_SIDE
from video_infinity_evaluation.footage import most_frames, open_footage
from video_infinity_evaluation.passing import Backends, Pass, load_backends
from video_infinity_evaluation.scores import Measure, Scores
from video_infinity_evaluation.world import words
from video_infinity_evaluation.world.truth import measure

MIN_FRAMES = 3


def score(
    video: Any,
    prompt: str | None = None,
    *,
    borders: Collection[int] = (),
    clip_frames: int | None = None,
    fps: float | None = None,
    backends: Backends | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Scores:
    """Measure one video.

    video     path of a file or of a directory of PNGs, array uint8 [F, H, W, 3], or any iterable
              of frames uint8 [H, W, 3], such as `VideoInfinityPipeline` returns
    prompt    what it should show; the embedded model's own sentences are checked word by word
    borders   first frames of its clips but the first; seams are measured there
    clip_frames  all clips have so many frames, in place of `borders`
    fps       frames a second, where the video does not say or says wrongly
    on_frame  is told of each frame that is done
    Raises EvaluationError if the video cannot be read, has fewer than MIN_FRAMES frames or is too
    small, or if a border is outside of it or clip_frames below 1.
    """
    if clip_frames is not None and clip_frames < 1:
        raise EvaluationError(f"clips of {clip_frames} frames are none; clip_frames is 1 or more")
    footage = open_footage(video, fps)
    backends = backends or load_backends()
    frames = iter(footage)
    head = list(itertools.islice(frames, MIN_FRAMES))
    if len(head) < MIN_FRAMES:
        raise EvaluationError(
            f"{footage.name} has {len(head)} frames; measures over time need {MIN_FRAMES} or more"
        )
    height, width = head[0].shape[:2]
    if min(height, width) < MIN_SIDE:
        raise EvaluationError(
            f"{footage.name} is {width}x{height}; measures need {MIN_SIDE} pixels a side or more"
        )
    most = most_frames(video) if len(borders) else None
    if most is not None:  # before hours of work
        length.check_borders(borders, most)
    scene, why_no_scene = _scene(prompt, height, width)
    seen = Pass(backends, vbench.sampled_every(footage.fps), read_words=scene is not None)
    seen.run(itertools.chain(head, frames), on_frame)
    if clip_frames is not None:
        borders = range(clip_frames, seen.num_frames, clip_frames)
    found = length.check_borders(borders, seen.num_frames)
    measures = [*vbench_measures(seen), *length_measures(seen, found), *look_measures(seen)]
    if scene is not None and seen.witness is not None:
        measures += measure(seen.witness.sighting(), scene)
    elif why_no_scene:
        measures.append(Measure("words of the world", None, "world", note=why_no_scene))
    return Scores(
        footage.name,
        *(seen.num_frames, footage.fps, height, width, prompt, found),
        tuple(measures),
        series(seen, scene),
    )


def _scene(prompt: str | None, height: int, width: int) -> tuple[words.Scene | None, str]:
    if prompt is None:
        return None, ""
    try:
        scene = words.parse_prompt(prompt)
    except ValueError:
        return None, "the prompt is no sentence of the embedded model's world"
    if (height, width) != (words.SIZE, words.SIZE):
        return None, f"the embedded model's world is {words.SIZE}x{words.SIZE} pixels"
    return scene, ""
