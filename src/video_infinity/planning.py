"""The plan of a resolved request: which clip is whose, and who sees whom."""

from __future__ import annotations

from video_infinity.adapters.base import ModelFacts
from video_infinity.config import Request, chosen
from video_infinity.errors import PlanError
from video_infinity.mesh import mesh_of
from video_infinity.methods import METHODS
from video_infinity.peers import CUTS
from video_infinity.plan import Plan, Scopes, split_spans, split_timeline
from video_infinity.windows import Windows, even_spans


def make_plan(request: Request, facts: ModelFacts, num_ranks: int) -> Plan:
    """The plan of a resolved request at its first step.

    Raises PlanError if a rank would get no frame, or for a number that the model cannot make.
    """
    num_latent_frames = facts.num_latent_frames(chosen(request.video.num_frames))
    num_clips = mesh_of(request.run.parallel, num_ranks).clip
    clips = split_timeline(num_latent_frames, num_clips)
    cuts = set(CUTS).intersection(request.how.parts_left_out)
    if cuts or request.how.method == "independent":
        spans = even_spans(num_latent_frames, chosen(request.how.window_frames))
        if cuts and len(spans) < num_clips:
            raise PlanError(
                f"--without {request.how.without}: {len(spans)} clips of at most "
                f"{request.how.window_frames} latent frames cannot fill {num_clips} ranks, which "
                "hold whole ones; use fewer ranks"
            )
        clips = split_spans(spans, num_clips)
    if METHODS[request.how.method].shares_chunks:
        chunk_frames = min(chosen(request.how.window_frames), num_latent_frames)
        if chunk_frames < num_clips:
            raise PlanError(
                f"--method {request.how.method} shares chunks of {chunk_frames} latent frames "
                f"among the ranks, and {num_clips} are too many; use {chunk_frames} or fewer"
            )
    return Plan(clips, scopes_of(request, facts, num_latent_frames))


def scopes_of(request: Request, facts: ModelFacts, num_latent_frames: int) -> Scopes:
    """Who sees whom, in latent frames, by the method of a resolved request."""
    wanted, how = request.scopes, request.how
    if "local_frames" in how.reads:
        return Scopes(
            chosen(wanted.local_frames),
            chosen(wanted.global_frames),
            chosen(wanted.global_rule),
            keeps_first=facts.first_frame_differs,
        )
    if how.method == "direct":
        return Scopes(num_latent_frames, 0)
    width = chosen(how.window_frames)
    if how.method == "freenoise":
        return Scopes(width - 1, 0, windows=Windows(width, chosen(how.stride_frames)))
    return Scopes(width - 1, 0)
