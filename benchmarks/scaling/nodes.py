"""Ranks on machines of several GPUs: most halos stay inside, global context and borders cross.

Inside of a machine every rank has a link of its own; all ranks of a machine share its port to the
network. Formulas alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from benchmarks.scaling.model import (
    MOMENT_BYTES,
    Layout,
    Link,
    Step,
    Subject,
    hideable,
    step_time,
    traffic,
)


@dataclass(frozen=True)
class Machines:
    """in_order  neighbouring clips on one machine (else round-robin: every halo crosses)"""

    inside: Link
    port: Link
    ranks_each: int = 8
    in_order: bool = True


@dataclass(frozen=True)
class Crossing:
    """Frames that pass one machine's port in one attention layer, the busier direction of the
    busiest machine, and frames that its busiest rank gets from inside."""

    port: float
    inside: float


def crossing(
    subject: Subject, machines: Machines, ranks: int, frames: int, layout: Layout
) -> Crossing:
    """Of a machine in the middle, with clips no shorter than the local scope."""
    each, h = machines.ranks_each, subject.scopes.local_frames
    count = min(subject.scopes.global_frames, ranks * frames)
    received = traffic(ranks, frames, subject.scopes).received
    num_machines = ranks // each
    if num_machines == 1:
        return Crossing(0.0, received)
    halo = 2 * h if machines.in_order else 2 * h * each
    outside = count * (1 - 1 / num_machines)
    owned = math.ceil(count / num_machines)
    if layout.passed_on:
        global_in = global_out = outside
    else:
        global_in, global_out = each * outside, owned * (ranks - each)
    port = halo + max(global_in, global_out)
    own_port = (h if machines.in_order else 2 * h) + (0 if layout.passed_on else outside)
    return Crossing(port, max(0.0, received - own_port))


def step_time_on(
    subject: Subject, machines: Machines, ranks: int, frames: int, layout: Layout
) -> Step:
    """As `step_time`, on machines. The cfg axis is not modelled here."""
    assert layout.cfg == 1 and ranks % machines.ranks_each == 0
    step = step_time(subject, machines.inside, ranks, frames, layout)
    num_machines = ranks // machines.ranks_each
    if num_machines == 1:
        return step
    batch_bytes = subject.branches * subject.value_bytes
    frame_bytes = subject.footprint.attention_values * batch_bytes
    crossed = crossing(subject, machines, ranks, frames, layout)
    rounds = subject.attention * (1 + math.ceil(math.log2(num_machines)))
    attention = max(
        machines.port.seconds(rounds, crossed.port * frame_bytes),
        machines.inside.seconds(subject.attention, crossed.inside * frame_bytes),
    )
    halos = 2 if machines.in_order else 2 * machines.ranks_each
    conv_bytes = halos * subject.footprint.conv_values * batch_bytes
    others = ranks - machines.ranks_each
    moment_bytes = others * subject.footprint.moment_values * subject.branches * MOMENT_BYTES
    hops = math.ceil(math.log2(num_machines))
    return replace(
        step,
        attention=attention,
        conv=machines.port.seconds(subject.conv, conv_bytes),
        norm=step_time(subject, machines.inside, machines.ranks_each, frames, layout).norm
        + machines.port.seconds((subject.conv + subject.norm) * hops, moment_bytes),
        hidden=min(attention, hideable(subject, step.compute, frames, layout.hidden)),
    )
