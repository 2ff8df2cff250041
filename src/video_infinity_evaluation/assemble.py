"""From what the observers kept to named measures, and to values over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from video_infinity_evaluation import length, niqe, vbench
from video_infinity_evaluation.official import NO_LIBRARY
from video_infinity_evaluation.passing import Pass
from video_infinity_evaluation.scores import Measure
from video_infinity_evaluation.world.truth import words_right
from video_infinity_evaluation.world.words import Scene

INTERPOLATED = "frames half-way by "


def vbench_measures(seen: Pass) -> list[Measure]:
    """The seven dimensions of the paper's table; imaging quality in another unit, of which less is
    better."""
    backends = seen.backends
    values: dict[str, tuple[float | None, str]] = {
        "subject_consistency": (
            vbench.consistency(seen.contents.subject_FD),
            backends.subject.label,
        ),
        "background_consistency": (vbench.consistency(seen.contents.scene_FD), seen.scene_label),
        "temporal_flickering": (vbench.flickering(seen.changes.difference_P), ""),
        "motion_smoothness": (
            vbench.smoothness(seen.interpolation.difference_K),
            INTERPOLATED + backends.flow.label,
        ),
        "dynamic_degree": (
            float(vbench.is_dynamic(seen.sampled.motion_P, seen.flow_side_px)),
            backends.flow.label,
        ),
        "aesthetic_quality": (
            float(np.mean(seen.aesthetic)) if seen.aesthetic else None,
            backends.aesthetic.label if backends.aesthetic is not None else "",
        ),
        "imaging_quality": (
            float(np.mean(seen.imaging)) if seen.imaging else None,
            backends.imaging.label if backends.imaging is not None else "",
        ),
    }
    notes = {
        "aesthetic_quality": "needs --weights with CLIP ViT-L/14 and LAION's head",
        "imaging_quality": _why_no_imaging(seen),
    }
    measures = []
    for name in vbench.DIMENSIONS:
        value, label = values[name]
        note = notes.get(name, "") if value is None else ""
        good = "low" if name == "imaging_quality" else "high"
        measures.append(Measure(name, value, "vbench", good, label, note))
    return measures


def _why_no_imaging(seen: Pass) -> str:
    official = f"{NO_LIBRARY['imaging_quality']} runs in --vbench-env alone"
    if seen.backends.imaging is None:
        return official
    if seen.shorter_side_px < niqe.MIN_SIDE:
        return f"NIQE needs frames of {niqe.MIN_SIDE} pixels a side or more; {official}"
    return f"NIQE needs two patches of a frame that are not flat; {official}"


def length_measures(seen: Pass, borders: Sequence[int]) -> list[Measure]:
    """Seams, jumps, drift and loops."""
    features_FD = seen.contents.subject_FD
    content, flow = seen.backends.subject.label, seen.backends.flow.label
    away_P = feature_distance(features_FD)
    changes = seen.changes
    measures = []
    why_no_ratio = "nothing changes elsewhere"
    if len(borders) == seen.num_frames - 1:
        why_no_ratio = "every pair is at a border"
    if not borders:
        why_no_ratio = "no border: name some by --borders, --clip-frames or --run-report"
    for what, values_P, label in (
        ("pixels", changes.difference_P, ""),
        ("motion", changes.residual_P, flow),
        ("content", away_P, content),
    ):
        ratio = length.seam_ratio(values_P, borders)
        note = "" if ratio is not None else why_no_ratio
        measures.append(Measure(f"seam_ratio_{what}", ratio, "length", "1", label, note))
    where = int(np.argmax(changes.residual_P)) + 1
    jump = length.largest_jump(changes.residual_P)
    place = f"at frame {where}" if jump is not None else "most neighbours are alike"
    measures.append(Measure("largest_jump", jump, "length", "low", flow, place))
    warping_P = np.array(changes.warping_P)
    warping = float(np.nanmean(warping_P)) if np.isfinite(warping_P).any() else None
    hidden = "" if warping is not None else "no point is seen in two neighbours"
    measures.append(Measure("warping_error", warping, "length", "low", flow, hidden))
    score, lag = length.loop(features_FD)
    again = f"every {lag} frames" if lag else ""
    measures.append(Measure("loop_score", score, "length", "low", content, again))
    return [*measures, *_drifts(seen, content)]


def _drifts(seen: Pass, content: str) -> list[Measure]:
    colours, window = seen.colours, length.FIRST_FRAMES
    lab_F3, features_FD = np.stack(colours.lab_F3), seen.contents.subject_FD
    short = "" if seen.num_frames >= 2 * window else f"shorter than twice {window} frames"
    pairs = {
        "colour_drift": (length.drift(lab_F3, window), ""),
        "content_drift": (length.turn(features_FD, window), content),
    }
    measures = []
    for name, (found, label) in pairs.items():
        last, largest = found or (None, None)
        measures.append(Measure(name, last, "length", "low", label, short))
        measures.append(Measure(f"{name}_max", largest, "length", "low", label, short))
    for name, values in (
        ("contrast_change", colours.contrast_F),
        ("sharpness_change", colours.sharpness_F),
    ):
        means_K = length.window_means(np.array(values), window)
        known = not short and means_K[0] > length.TINY
        change = float(means_K[-1] / means_K[0] - 1) if known else None
        flat = "" if known else "the first frames have none"
        measures.append(Measure(name, change, "length", "", "", short or flat))
    return measures


def look_measures(seen: Pass) -> list[Measure]:
    """How much moves, and how the frames look, without any network."""
    scale = 256 / seen.flow_side_px
    motion = float(np.mean(seen.sampled.motion_P)) * scale if seen.sampled.motion_P else None
    flow = seen.backends.flow.label
    means = (("sharpness", seen.colours.sharpness_F), ("colourfulness", seen.colours.colourful_F))
    return [
        Measure("motion", motion, "length", "", flow, "pixels of 256 between sampled frames"),
        *(Measure(name, float(np.mean(values)), "length") for name, values in means),
    ]


def feature_distance(features_FD: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """1 - cosine of neighbours, for each pair."""
    dots = partial(np.einsum, "pd,pd->p", dtype=np.float64)  # wide sums without a wide copy
    norm_F = np.maximum(np.sqrt(dots(features_FD, features_FD)), length.TINY)
    cosine_P = dots(features_FD[1:], features_FD[:-1]) / (norm_F[1:] * norm_F[:-1])
    return np.asarray(1 - cosine_P)


def series(seen: Pass, scene: Scene | None) -> Mapping[str, tuple[float, ...]]:
    """What goes over time: of F values by frame, of F - 1 by pair."""
    window = length.FIRST_FRAMES
    lab_F3, features_FD = np.stack(seen.colours.lab_F3), seen.contents.subject_FD
    first_D = features_FD[:window].mean(0)
    away_F = feature_distance_from(features_FD, first_D)
    colour_F = np.linalg.norm(lab_F3 - lab_F3[:window].mean(0), axis=1)
    values: dict[str, npt.ArrayLike] = {
        "difference of neighbours, levels": seen.changes.difference_P,
        "left over by motion, share": seen.changes.residual_P,
        "content away from neighbour": feature_distance(features_FD),
        "content away from first frames": away_F,
        "colour away from first frames, Delta E": colour_F,
        "motion, pixels": seen.changes.motion_P,
    }
    if scene is not None and seen.witness is not None:
        seen_words = seen.witness.sighting()
        for word, right_F in words_right(seen_words, scene).items():
            values[f"{word} right"] = right_F.astype(np.float64)
        values["digit's row, pixels"] = seen_words.centre_F2[:, 0]
        values["digit's column, pixels"] = seen_words.centre_F2[:, 1]
    return {name: tuple(np.asarray(v, np.float64).tolist()) for name, v in values.items()}


def feature_distance_from(
    features_FD: npt.NDArray[np.floating], reference_D: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """1 - cosine with one reference, for each frame."""
    norms_F = np.linalg.norm(features_FD, axis=1) * np.linalg.norm(reference_D)
    return np.asarray(1 - (features_FD @ reference_D) / np.maximum(norms_F, length.TINY))
