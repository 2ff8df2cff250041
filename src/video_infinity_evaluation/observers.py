"""What looks at the frames as they go by, keeps numbers, and forgets the pictures.

Each observer holds two frames at most; what it keeps is a few numbers a frame, and for
`Contents` the features (5 KB a frame).

F frames, P = F - 1 pairs of neighbours, D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from video_infinity_evaluation import flow as motion
from video_infinity_evaluation.features import EfficientNetLite, Features
from video_infinity_evaluation.flow import Flow
from video_infinity_evaluation.footage import Frame


class View:
    """One frame, the one before it, and what several observers want of both, worked out once."""

    def __init__(self, index: int, frame_HWC: Frame, before: View | None, flow: Flow) -> None:
        self.index, self.frame, self.before, self._flow = index, frame_HWC, before, flow

    def forget(self) -> None:
        """Let go of the frames further back."""
        self.before = None

    @cached_property
    def gray(self) -> npt.NDArray[np.uint8]:
        """Luma at the size at which flow is sought."""
        return motion.gray_of(self.frame)

    @cached_property
    def flow(self) -> motion.Array:
        """From the frame before to this one, [h, w, 2]."""
        assert self.before is not None, "the first frame has no flow"
        return self._flow(self.before.gray, self.gray)

    @cached_property
    def flow_back(self) -> motion.Array:
        """From this frame to the one before."""
        assert self.before is not None, "the first frame has no flow"
        return self._flow(self.gray, self.before.gray)


class Changes:
    """Differences of neighbours: of pixels, and of what motion leaves over.

    difference_P  mean absolute difference, in levels of 255
    residual_P    the same after the second frame was moved back by the flow, of luma in [0, 1]
    warping_P     mean squared residual where a point is visible in both frames; NaN if none is
    motion_P      mean of the longest 5 % of the flow, in pixels of the flow's size
    """

    def __init__(self) -> None:
        self.difference_P: list[float] = []
        self.residual_P: list[float] = []
        self.warping_P: list[float] = []
        self.motion_P: list[float] = []

    def see(self, view: View) -> None:
        """Take the next frame."""
        before = view.before
        if before is None:
            return
        self.difference_P.append(float(cv2.absdiff(before.frame, view.frame).mean()))
        residual_HW = motion.residual(before.gray, view.gray, view.flow)
        self.residual_P.append(float(residual_HW.mean()))
        seen_HW = motion.visible(view.flow, view.flow_back)
        warping = float((residual_HW[seen_HW] ** 2).mean()) if seen_HW.any() else float("nan")
        self.warping_P.append(warping)
        self.motion_P.append(motion.top_motion(view.flow))


class Interpolation:
    """How well the odd frames follow from their even neighbours.

    difference_K  mean absolute difference to the frame half-way, in levels of 255
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.difference_K: list[float] = []

    def see(self, view: View) -> None:
        """Take the next frame."""
        odd = view.before
        if view.index % 2 or odd is None or odd.before is None:
            return
        even = odd.before
        guessed = motion.in_between(even.frame, view.frame, self._flow(even.gray, view.gray))
        self.difference_K.append(float(cv2.absdiff(guessed, odd.frame).mean()))


class Sampled:
    """Motion between frames that are a fixed number apart, as the dynamic degree wants it.

    motion_P  mean of the longest 5 % of the flow, in pixels of the flow's size
    """

    def __init__(self, flow: Flow, every: int) -> None:
        self._flow, self._every = flow, every
        self._last: npt.NDArray[np.uint8] | None = None
        self.motion_P: list[float] = []

    def see(self, view: View) -> None:
        """Take the next frame."""
        if view.index % self._every:
            return
        if self._every == 1:
            if view.before is not None:
                self.motion_P.append(motion.top_motion(view.flow))
            return
        if self._last is not None:
            self.motion_P.append(motion.top_motion(self._flow(self._last, view.gray)))
        self._last = view.gray


class Colours:
    """Mean colour, contrast, and sharpness of every frame.

    lab_F3       CIE L*a*b* (D65); distances are in units of Delta E, where 2.3 is just noticed
    contrast_F   standard deviation of L*
    sharpness_F  root mean square of the Laplacian of luma, in levels of 255
    colourful_F  Hasler and Süsstrunk's colourfulness
    Source: Hasler, Süsstrunk, "Measuring Colourfulness in Natural Images" (2003).
    """

    def __init__(self) -> None:
        self.lab_F3: list[npt.NDArray[np.float64]] = []
        self.contrast_F: list[float] = []
        self.sharpness_F: list[float] = []
        self.colourful_F: list[float] = []

    def see(self, view: View) -> None:
        """Take the next frame."""
        height, width = view.gray.shape
        small = view.frame
        if small.shape[:2] != (height, width):
            small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA))
        rgb_HWC = small.astype(np.float32)
        lab_HWC = cv2.cvtColor(rgb_HWC / 255, cv2.COLOR_RGB2LAB)
        self.lab_F3.append(lab_HWC.reshape(-1, 3).mean(0, dtype=np.float64))
        self.contrast_F.append(float(lab_HWC[..., 0].std()))
        laplacian_HW = cv2.Laplacian(view.gray, cv2.CV_32F)
        self.sharpness_F.append(float(np.sqrt((laplacian_HW**2).mean())))
        red, green, blue = (rgb_HWC[..., k] for k in range(3))
        opponents = (red - green, (red + green) / 2 - blue)
        spread = np.hypot(*(x.std() for x in opponents))
        self.colourful_F.append(float(spread + 0.3 * np.hypot(*(x.mean() for x in opponents))))


class Contents:
    """Features of every frame, taken a few frames at a time.

    subject_FD  what is in the picture; `content` of drift and loops, too
    scene_FD    where it is
    """

    def __init__(self, subject: Features, scene: Features | None = None) -> None:
        self._subject, self._scene = subject, scene
        self._subjects, self._scenes = _Rows(), _Rows()

    def see_all(self, frames: Sequence[Frame]) -> None:
        """Take the next frames."""
        self._subjects.append(self._subject(frames))
        if self._scene is not None:
            self._scenes.append(self._scene(frames))
        elif isinstance(self._subject, EfficientNetLite):
            self._scenes.append(self._subject.scenes())

    @property
    def subject_FD(self) -> npt.NDArray[np.float32]:
        return self._subjects.rows()

    @property
    def scene_FD(self) -> npt.NDArray[np.float32]:
        return self._scenes.rows()


class _Rows:
    """Vectors that come a few at a time, copied into one block that doubles when it is full.

    Kept where a network left them, they would pin the pages of its large tensors around them.
    """

    def __init__(self) -> None:
        self._block_RD, self._count = np.empty((0, 0), np.float32), 0

    def append(self, rows_BD: npt.NDArray[np.float32]) -> None:
        wanted = self._count + len(rows_BD)
        if wanted > len(self._block_RD):
            block_RD = np.empty((max(256, 2 * wanted), rows_BD.shape[1]), np.float32)
            if self._count:
                block_RD[: self._count] = self._block_RD[: self._count]
            self._block_RD = block_RD
        self._block_RD[self._count : wanted] = rows_BD
        self._count = wanted

    def rows(self) -> npt.NDArray[np.float32]:
        return self._block_RD[: self._count]
