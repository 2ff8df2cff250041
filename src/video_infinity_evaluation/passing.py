"""The backends, and the one pass over a video in which every observer sees every frame."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_infinity_evaluation.errors import EvaluationError
from video_infinity_evaluation.features import EfficientNetLite, Features
from video_infinity_evaluation.flow import DisFlow, Flow
from video_infinity_evaluation.footage import Frame
from video_infinity_evaluation.niqe import Niqe
from video_infinity_evaluation.observers import (
    Changes,
    Colours,
    Contents,
    Interpolation,
    Sampled,
    View,
)
from video_infinity_evaluation.official import Aesthetic, load_official
from video_infinity_evaluation.world.truth import Witness

PIECE_FRAMES = 4


@dataclass(frozen=True)
class Backends:
    """What the measures see with.

    scene      None: the subject's own, half-way up, which the light one has
    aesthetic  None: not measured
    imaging    None: not measured
    Raises EvaluationError without a scene for a subject that has none of its own.
    """

    subject: Features
    flow: Flow
    scene: Features | None = None
    aesthetic: Aesthetic | None = None
    imaging: Niqe | None = None

    def __post_init__(self) -> None:
        if self.scene is None and not hasattr(self.subject, "scenes"):
            raise EvaluationError(f"the subject {self.subject.label} has no scenes: give a scene")


def load_backends(weights: Path | None = None) -> Backends:
    """Light backends, and VBench's own networks where a folder of weights holds them.

    Raises EvaluationError for a folder that holds none, or one that cannot be loaded.
    """
    if weights is None:
        return Backends(EfficientNetLite(), DisFlow(), imaging=Niqe())
    official = load_official(weights)
    light = EfficientNetLite()
    return Backends(
        official.subject or light,
        DisFlow(),
        official.scene or (LightScenes(light) if official.subject else None),
        official.aesthetic,
        Niqe(),
    )


class LightScenes:
    """The light backend's scenes, where the subject has a network of its own."""

    label = EfficientNetLite.scene_label

    def __init__(self, light: EfficientNetLite) -> None:
        self._light = light

    def __call__(self, frames: Any) -> Any:
        """[B, D]"""
        self._light(frames)
        return self._light.scenes()


class Pass:
    """All observers, and the frames that they have seen."""

    def __init__(self, backends: Backends, every: int, *, read_words: bool) -> None:
        self.backends, self.num_frames, self.shorter_side_px = backends, 0, 0
        self.flow_side_px = 0
        self.changes, self.colours = Changes(), Colours()
        self.interpolation = Interpolation(backends.flow)
        self.sampled = Sampled(backends.flow, every)
        self.contents = Contents(backends.subject, backends.scene)
        self.witness = Witness() if read_words else None
        self.aesthetic: list[float] = []
        self.imaging: list[float] = []

    def run(self, frames: Iterable[Frame], on_frame: Callable[[int], None] | None) -> None:
        """See all frames. on_frame: is told how many are done."""
        last: View | None = None
        for piece in _pieces(frames):
            self.contents.see_all(piece)
            if self.witness is not None:
                self.witness.see_all(piece)
            if self.backends.aesthetic is not None:
                self.aesthetic += self.backends.aesthetic(piece).tolist()
            if self.backends.imaging is not None:
                found = map(self.backends.imaging, piece)
                self.imaging += [value for value in found if value is not None]
            for frame in piece:
                view = View(self.num_frames, frame, last, self.backends.flow)
                for observer in (self.changes, self.interpolation, self.sampled, self.colours):
                    observer.see(view)
                if last is not None:
                    last.forget()
                last = view
                self.num_frames += 1
                if on_frame is not None:
                    on_frame(self.num_frames)
        assert last is not None
        self.shorter_side_px = min(last.frame.shape[:2])
        self.flow_side_px = min(last.gray.shape)

    @property
    def scene_label(self) -> str:
        """The backend of `contents.scene_FD`."""
        scene = self.backends.scene
        return scene.label if scene is not None else EfficientNetLite.scene_label


def _pieces(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    iterator = iter(frames)
    while piece := list(itertools.islice(iterator, PIECE_FRAMES)):
        yield piece
