"""What a run would take: clips, scopes, memory per rank, bytes per step. Generates nothing.

The bytes are the formula of the exchange and equal what a run measures (at its first step, if the
global context rotates, or a method goes chunk by chunk, at its widest where it moves on in fronts;
None is not known). The memory is what the tensors of one pass take at the widest point, from shapes
alone, without a kernel's own; on a CPU with what the allocator keeps and the wire holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from video_infinity.adapters import ModelFacts, trace_model
from video_infinity.adapters.footprint import Footprint, Workload
from video_infinity.comm.shared import held_bytes
from video_infinity.config import Request, chosen
from video_infinity.memory import device_memory_bytes
from video_infinity.mesh import Mesh, mesh_of
from video_infinity.methods import METHODS
from video_infinity.methods.in_fronts import widest_pass
from video_infinity.methods.loop import whole_plan
from video_infinity.methods.shared_windows import deal, frames_received
from video_infinity.peers import CUTS
from video_infinity.plan import Clip, Plan, Scopes, Transfer, split_timeline
from video_infinity.planning import make_plan
from video_infinity.space import run_dir_bytes
from video_infinity.windows import Windows, even_spans

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
MOMENT_BYTES = LATENT_BYTES = 4
CONV_HALO_FRAMES = 1
WHOLE_CLIPS = ("clip-parallel", "direct", "freenoise")
"""Methods that pass a rank's whole clip through the denoiser."""
LONG_CLIPS = {"long": 1024, "longer": 2048}
"""Latent frames of clips whose memory says how it grows."""

Kind = tuple[int, int, int] | str
IDLE: Kind = (0, 0, 0)


def estimate(request: Request, facts: ModelFacts, num_ranks: int) -> dict[str, Any]:
    """The plan of a prepared request as plain data, ready for JSON."""
    video = request.video
    plan = make_plan(request, facts, num_ranks)
    mesh = mesh_of(request.run.parallel, num_ranks)
    clips = [plan.clips[mesh.clip_of(rank)] for rank in range(num_ranks)]
    size = chosen(video.height), chosen(video.width)
    branches = 2 if chosen(video.guidance_scale) > 1 else 1
    own_branches = branches // mesh.cfg
    batch = 1 if request.run.sequential_guidance else own_branches
    value_bytes = BYTES_PER_VALUE[request.model.dtype]
    passes = _passes(request, plan)
    loads = _workloads(request, plan, passes, batch, value_bytes)
    footprint = trace_model(request.model, facts, *size, list(loads.values()))
    peaks = {IDLE: 0, **dict(zip(loads, footprint.peak_bytes, strict=True))}
    predicted_bytes = math.prod(facts.latent_shape_CHW(*size)) * own_branches * value_bytes
    weights_bytes = footprint.num_weights * value_bytes
    wire_bytes = held_bytes(num_ranks) if request.model.device == "cpu" else 0
    how = request.how
    return {
        "model": facts.name,
        "method": how.method,
        "noise": how.noise,
        "window_frames": how.window_frames,
        "stride_frames": how.stride_frames,
        "conditioning": how.conditioning,
        "front_frames": how.front_frames,
        "front_span": how.front_span,
        "without": how.without,
        "num_frames": video.num_frames,
        "num_latent_frames": plan.num_latent_frames,
        "steps": METHODS[how.method].num_steps(
            how, plan.num_latent_frames, chosen(video.num_inference_steps)
        ),
        "ranks": num_ranks,
        "parallel": {"cfg": mesh.cfg, "clip": mesh.clip},
        "clips": [[clip.start, clip.stop] for clip in clips],
        "local_frames": plan.local_frames,
        "global_frames": len(plan.global_context),
        "global_context": None if how.front_frames else list(plan.global_context),
        "global_rule": plan.scopes.global_rule,
        "bias": {
            "local": request.scopes.local_bias,
            "global": request.scopes.global_bias,
            "switch": request.scopes.bias_switch,
        },
        "weights_bytes": weights_bytes,
        "text_encoder_bytes": footprint.num_text_weights * value_bytes,
        "expected_memory_bytes": [
            wire_bytes + peaks[_kind(*passes[mesh.clip_of(rank)])] for rank in range(num_ranks)
        ],
        "longest_num_frames": _longest(request, facts, mesh, peaks, weights_bytes),
        "bytes_received_per_step": [
            _exchanged(request, plan, footprint, mesh, rank, own_branches, predicted_bytes)
            for rank in range(num_ranks)
        ],
        "run_dir_bytes": run_dir_bytes(request, facts),
    }


def _passes(request: Request, plan: Plan) -> list[tuple[Plan, int]]:
    """Of every clip's rank, the plan of its widest pass, and its rank there: one that the plan has
    not, if it sits that pass out."""
    how, ranks = request.how, range(plan.num_ranks)
    if how.front_frames:
        widest = widest_pass(how, plan, chosen(request.video.num_inference_steps))
        return [(widest.plan, rank) for rank in ranks]
    if how.method in WHOLE_CLIPS:
        return [(plan, rank) for rank in ranks]
    width = min(chosen(how.window_frames), plan.num_latent_frames)
    if METHODS[how.method].shares_chunks and how.method != "fifo":
        chunk = Plan(split_timeline(width, plan.num_ranks), Scopes(width, 0))
        return [(chunk, rank) for rank in ranks]
    if how.method == "independent":
        width = max(map(len, even_spans(plan.num_latent_frames, width)))
    return [(whole_plan(width), 0) for _ in ranks]


def _workloads(
    request: Request,
    plan: Plan,
    passes: Sequence[tuple[Plan, int]],
    batch: int,
    value_bytes: int,
) -> dict[Kind, Workload]:
    """The passes whose memory is asked for: of every kind of clip, and of two long ones."""
    shapes: dict[Kind, tuple[Plan, int]] = {_kind(*one): one for one in passes}
    shapes.pop(IDLE, None)
    if _grows_evenly(request):
        for name, frames in LONG_CLIPS.items():
            shapes[name] = Plan((Clip(0, frames),), plan.scopes), 0
    device = request.model.device
    return {
        name: Workload(on, rank, batch, value_bytes, device) for name, (on, rank) in shapes.items()
    }


def _grows_evenly(request: Request) -> bool:
    """Whether a rank's memory grows in proportion to its clip."""
    return request.how.method in WHOLE_CLIPS and request.how.method != "direct"


def _kind(plan: Plan, rank: int) -> Kind:
    """What a rank's memory follows from: frames that it holds, receives and sends; of one that sits
    a pass out, nothing."""
    if rank >= plan.num_ranks:
        return IDLE
    transfers = [*plan.attention_transfers(), *plan.halo_transfers(CONV_HALO_FRAMES)]
    received = sum(len(t.frames) for t in transfers if t.target == rank)
    sent = sum(len(t.frames) for t in transfers if t.source == rank)
    return len(plan.clips[rank]), received, sent


def _longest(
    request: Request,
    facts: ModelFacts,
    mesh: Mesh,
    peaks: Mapping[Kind, int],
    weights_bytes: int,
) -> int | None:
    """Pixel frames of the longest video for which the ranks of this machine have memory.

    Memory is taken to grow everywhere as between the two long clips; a video in fronts, whose
    passes are about fewer frames, can be longer.
    None if that is not known: a GPU that is planned for need not be here, and a method's memory
    may grow otherwise, or hardly.
    """
    if not _grows_evenly(request):
        return None
    memory = device_memory_bytes(torch.device(request.model.device))
    if memory is None:
        return None
    if request.model.device == "cpu":
        memory //= mesh.size
    (long, at_long), (longer, at_longer) = ((n, peaks[name]) for name, n in LONG_CLIPS.items())
    frame_bytes = (at_longer - at_long) / (longer - long)
    per_clip = longer + int((memory - weights_bytes - at_longer) / frame_bytes)
    return facts.first_pixel_frame(max(0, per_clip) * mesh.clip)


def _exchanged(
    request: Request,
    plan: Plan,
    footprint: Footprint,
    mesh: Mesh,
    rank: int,
    own_branches: int,
    predicted_bytes: int,
) -> int | None:
    """Bytes that a rank receives in a step, with what ranks of one clip share; None: not known.

    predicted_bytes  of one frame's predictions, of all the branches of a rank
    """
    how, place = request.how, mesh.clip_of(rank)
    value_bytes = BYTES_PER_VALUE[request.model.dtype]
    latent_bytes = predicted_bytes // own_branches // value_bytes * LATENT_BYTES
    if how.method in WHOLE_CLIPS:
        received = 0
        if set(CUTS).intersection(how.parts_left_out):
            if plan.num_ranks > 1:
                return None
        elif how.front_frames:
            widest = widest_pass(how, plan, chosen(request.video.num_inference_steps))
            received = latent_bytes * widest.frames_received(plan, place)
            plan = widest.plan
            if place >= plan.num_ranks:
                return received
        received += bytes_received(plan, footprint, place, own_branches, value_bytes)
        return received + (mesh.cfg - 1) * predicted_bytes * len(plan.clips[place])
    if how.method == "fifo":
        return 0 if mesh.size == 1 else None  # its two phases differ
    if METHODS[how.method].shares_chunks:
        chunk, _ = _passes(request, plan)[place]
        own = predicted_bytes * len(chunk.clips[place])
        received = bytes_received(chunk, footprint, place, own_branches, value_bytes)
        return received + (mesh.cfg - 1) * own
    width = chosen(how.window_frames)
    windows = even_spans(plan.num_latent_frames, width)
    if how.method == "multidiffusion":
        windows = Windows(width, chosen(how.stride_frames)).spans(plan.num_latent_frames)
    frames = sum(map(len, deal(windows, plan.num_ranks)[place]))
    received = frames_received(windows, plan, place) * latent_bytes
    return received + (mesh.cfg - 1) * predicted_bytes * frames


def bytes_received(
    plan: Plan, footprint: Footprint, rank: int, batch: int, value_bytes: int
) -> int:
    """Bytes that one rank receives in one step: keys and values, halos, moments.

    Source: promise 4 of the design: (union of N(i) over the clip, and G) minus its own.
    """

    def frames(transfers: tuple[Transfer, ...]) -> int:
        return sum(len(t.frames) for t in transfers if t.target == rank)

    values = frames(plan.attention_transfers()) * footprint.attention_values
    values += frames(plan.halo_transfers(CONV_HALO_FRAMES)) * footprint.conv_values
    moments = (plan.num_ranks - 1) * footprint.moment_values
    return batch * (values * value_bytes + moments * MOMENT_BYTES)


def describe_plan(predicted: dict[str, Any]) -> str:
    """The same for people."""
    context = predicted["global_context"]
    which = "of each pass" if context is None else ", ".join(map(str, context)) or "none"
    lines = [
        f"{predicted['num_frames']} frames, {predicted['num_latent_frames']} latent frames, "
        f"{predicted['ranks']} ranks, {predicted['method']}, model {predicted['model']}",
    ]
    lines[0] += f", {predicted['steps']} steps"
    if predicted["window_frames"] is not None:
        lines.append(
            f"windows of {predicted['window_frames']} latent frames, "
            f"stride {predicted['stride_frames'] or 'none'}, noise {predicted['noise']}"
        )
    if predicted["conditioning"]:
        lines.append(f"known frames: {predicted['conditioning']}")
    if predicted["front_frames"]:
        lines.append(
            f"fronts through stretches of at most {predicted['front_span']} latent frames, "
            f"{predicted['front_frames']} a step"
        )
    if predicted["without"]:
        lines.append(f"left out: {predicted['without']}")
    if predicted["bias"]["switch"] is not None:
        lines += [
            f"local scope {predicted['local_frames']} on each side; global context "
            f"{predicted['global_frames']}, {predicted['global_rule']}: {which}",
            "bias local {local:g}, global {global:g}, switch {switch:g}".format(
                **predicted["bias"]
            ),
        ]
    lines += [
        f"mesh: cfg {predicted['parallel']['cfg']}, clip {predicted['parallel']['clip']}",
        f"weights {predicted['weights_bytes'] / 1e6:.1f} MB on every rank, text encoder "
        f"{predicted['text_encoder_bytes'] / 1e6:.1f} MB on rank 0",
        "run directory at most {checkpoints:.1f} MB of checkpoints, {pictures:.1f} MB of finished "
        "pictures".format(**{k: v / 1e6 for k, v in predicted["run_dir_bytes"].items()}),
        f"{'rank':>6}{'clip':>16}{'memory':>14}{'received per step':>22}",
    ]
    rows = zip(
        predicted["clips"],
        predicted["expected_memory_bytes"],
        predicted["bytes_received_per_step"],
        strict=True,
    )
    for rank, ((start, stop), memory, received) in enumerate(rows):
        lines.append(
            f"{rank:>6}{f'{start} to {stop - 1}':>16}{f'{memory / 1e6:.1f} MB':>14}"
            f"{'not modelled' if received is None else f'{received / 1e6:.3f} MB':>22}"
        )
    longest = predicted["longest_num_frames"]
    if longest is not None:
        lines.append(f"longest video that fits into the memory here: {longest} frames")
    return "\n".join(lines)
