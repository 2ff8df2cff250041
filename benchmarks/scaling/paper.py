"""The paper's own exchange, and its table of what synchronisation costs.

Its published program is modelled as it stands (read, not run): plain PyTorch in place of the fused
layers, one collective after the other, a device synchronisation after each padding. What it
computes and copies beyond the plain model is counted, what travels is counted, and one constant is
fitted: the seconds of one collective call, with whatever waiting comes with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.scaling import published
from benchmarks.scaling.model import Layout, Link, Subject, hideable, step_time

PARTS = ("conv", "norm", "attention")
FRAMES = 24
"""Latent frames a GPU: the published configuration. That the table was made with it is assumed."""
CONV_PADDING, CONVS_PER_LAYER = 4, 4
LOCAL_FRAMES, GLOBAL_FRAMES = 8, 16
HEAD_CHANNELS = 64
NORM_PASSES = 11
"""Tensors read or written beyond a fused group norm's three: mean, square of the difference, its
mean, normalise, scale, shift, each an operation of its own."""
SCORE_PASSES = 10
"""Times that an attention's scores are read or written: product, scale, mask, softmax, dropout,
product; a fused kernel never writes them."""
FIT = ("norm", 2)
"""Row and column that the constant is fitted on: norms carry next to no bytes."""


@dataclass(frozen=True)
class Extra:
    """What a part adds to one step of an inner rank."""

    compute_s: float
    memory_s: float
    wire_s: float
    calls: int

    def seconds(self, call_s: float) -> float:
        return self.compute_s + self.memory_s + self.wire_s + self.calls * call_s


def plain_seconds(ranks: int) -> float:
    """One step without an exchange."""
    return published.PAPER_PLAIN_S[ranks] / published.PAPER_STEPS


def theirs(subject: Subject, part: str, ranks: int, link: Link) -> Extra:
    """The paper's scheme. Both partners of a pair-wise all_gather need what the other gives; the
    half that is thrown away is the copy of their own, which does not travel."""
    batch_bytes = subject.branches * subject.value_bytes
    conv_bytes = subject.footprint.conv_values * batch_bytes
    frame_bytes = subject.footprint.attention_values * batch_bytes
    neighbours = min(2, ranks - 1)
    memory = published.A5000_BYTES_PER_S
    if part == "conv":
        recomputed = 2 * CONV_PADDING / FRAMES * subject.work.conv / subject.work.total
        travels = neighbours * CONV_PADDING * conv_bytes / CONVS_PER_LAYER
        joined = 2 * (FRAMES + 2 * CONV_PADDING) * conv_bytes / CONVS_PER_LAYER
        return Extra(
            plain_seconds(ranks) * recomputed,
            joined / memory,
            travels / link.bytes_per_s,
            neighbours * subject.conv // CONVS_PER_LAYER,
        )
    if part == "norm":
        # a transformer's norm reads as much as a fourth of its two layers' keys and values
        normed = FRAMES * (conv_bytes + frame_bytes / 4)
        return Extra(0.0, NORM_PASSES * normed / memory, 0.0, 2 * (subject.conv + subject.norm))
    assert part == "attention", part
    keys = FRAMES + 2 * LOCAL_FRAMES + GLOBAL_FRAMES
    scores = frame_bytes / 2 / HEAD_CHANNELS * FRAMES * keys
    # read and written: keys and values padded, then joined with the global ones; heads split and
    # merged of queries, keys, values and the result
    copies = 2 * (FRAMES + 2 * LOCAL_FRAMES + keys + 2 * FRAMES) * frame_bytes
    received = neighbours * LOCAL_FRAMES + (ranks - 1) * (GLOBAL_FRAMES // ranks)
    return Extra(
        0.0,
        (copies + SCORE_PASSES * scores) / memory,
        received * frame_bytes / link.bytes_per_s,
        (2 + 2 * neighbours) * subject.attention,
    )


def call_seconds(subject: Subject, link: Link, row: str, ranks: int) -> float:
    """Seconds of a call that make the model give the paper's figure in this row and column."""
    extra = theirs(subject, row, ranks, link)
    cost_s = published.PAPER_COST[ranks][row] * plain_seconds(ranks)
    return (cost_s - extra.seconds(0.0)) / extra.calls


def shares(subject: Subject, ranks: int, link: Link, call_s: float) -> dict[str, float]:
    """The paper's table by the model: every part over plain, and their sum."""
    found = {
        part: theirs(subject, part, ranks, link).seconds(call_s) / plain_seconds(ranks)
        for part in PARTS
    }
    return {**found, "full": sum(found.values())}


def ours(subject: Subject, ranks: int, link: Link, call_s: float) -> dict[str, float]:
    """This engine's exchange on the same machine, at the same seconds a call: shares of plain.

    One call for each attention, one for a convolution's halo, one for moments.
    """
    plain = plain_seconds(ranks)
    layout = Layout(hidden="nothing")
    wire = Link("bytes alone", 0.0, link.bytes_per_s)
    step = step_time(subject, wire, ranks, FRAMES, layout)
    halo_s = min(2, ranks - 1) * plain / FRAMES * subject.work.conv / subject.work.total
    attention = step.attention + subject.attention * call_s
    attention -= min(attention, hideable(subject, plain, FRAMES, "queries"))
    found = {
        "conv": (step.conv + halo_s + subject.conv * call_s) / plain,
        "norm": (step.norm + (subject.conv + subject.norm) * call_s) / plain,
        "attention": attention / plain,
    }
    return {**found, "full": sum(found.values())}
