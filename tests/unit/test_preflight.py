"""Requests against what a model can do, before a weight is read."""

from __future__ import annotations

from typing import Any

import pytest

from video_infinity.adapters import ModelFacts
from video_infinity.config import ModelDefaults, Request
from video_infinity.errors import ConfigError, PlanError
from video_infinity.planning import make_plan
from video_infinity.preflight import method_warnings, prepare
from video_infinity.timeline import PromptTimeline


def facts(front_frames: int = 0, **more: Any) -> ModelFacts:
    defaults = ModelDefaults(
        num_frames=17,
        local_frames=2,
        global_frames=3,
        guidance_scale=5.0,
        front_frames=front_frames,
    )
    return ModelFacts("some", "a model", 8, 16, 4, defaults, **more)


def request(**options: Any) -> Request:
    return Request.from_options(PromptTimeline.single("a"), options)


def test_a_second_guidance_needs_a_second_expert() -> None:
    with pytest.raises(ConfigError, match=r"--guidance-scale-2 3: a model has one denoiser; drop"):
        prepare(request(guidance_scale_2=3), facts(), 1)
    two_experts = facts(expert_boundary=875.0)
    assert prepare(request(guidance_scale_2=3), two_experts, 1).video.guidance_scale_2 == 3
    assert prepare(request(), two_experts, 1).video.guidance_scale_2 is None


def test_a_second_guidance_without_the_first_has_no_effect() -> None:
    with pytest.raises(ConfigError, match=r"--guidance-scale-2 3 has no effect .* above 1, or"):
        prepare(request(guidance_scale_2=3, guidance_scale=1), facts(expert_boundary=875.0), 1)


def test_frames_are_the_models_where_left_open_and_as_many_as_it_can_make() -> None:
    of_four = facts(frames_per_latent=4)
    assert prepare(request(), of_four, 5).video.num_frames == 17
    with pytest.raises(PlanError, match=r"num_frames=16 does not fit .* nearest are 13 and 17"):
        prepare(request(num_frames=16), of_four, 1)
    with pytest.raises(PlanError, match="17 is 5 latent frames, fewer than 6 ranks"):
        prepare(request(), of_four, 6)


@pytest.mark.parametrize(("frames_per_latent", "latent_frames"), [(1, 17), (4, 5)])
def test_the_plan_is_that_of_latent_frames_and_of_the_models_scopes(
    frames_per_latent: int, latent_frames: int
) -> None:
    model = facts(frames_per_latent=frames_per_latent)
    plan = make_plan(prepare(request(global_rule="rotating"), model, 3), model, 3)
    assert (plan.num_latent_frames, plan.num_ranks) == (latent_frames, 3)
    assert (plan.scopes.local_frames, plan.scopes.global_frames) == (2, 3)
    assert plan.scopes.global_rule == "rotating"
    assert plan.scopes.keeps_first == (frames_per_latent > 1)


def test_a_model_that_was_not_trained_on_known_frames_is_told_of() -> None:
    asked = prepare(request(method="masked-continuation"), facts(frame_timesteps=True), 1)
    (line,) = method_warnings(asked, facts(frame_timesteps=True))
    assert line.startswith("a model was not trained to go on from frames that it knows: --method")
    assert method_warnings(asked, facts(frame_timesteps=True, knows_frames=True)) == []
    assert (
        method_warnings(prepare(request(method="fifo"), facts(frame_timesteps=True), 1), facts())
        == []
    )


@pytest.mark.parametrize(
    ("told", "knows", "asked", "taken"),
    [
        (True, True, None, "clean"),
        (True, False, None, "replacement"),
        (False, True, None, "replacement"),
        (True, True, "replacement", "replacement"),
        (True, False, "clean", "clean"),
    ],
)
def test_known_frames_are_given_as_the_model_was_trained_or_as_asked(
    told: bool, knows: bool, asked: str | None, taken: str
) -> None:
    model = facts(frame_timesteps=told, knows_frames=knows)
    wanted = prepare(request(method="autoregressive", conditioning=asked), model, 1)
    assert wanted.how.conditioning == taken
    untrained = [] if taken != "clean" or knows else ["StreamingT2V"]
    assert [line.rsplit(" ", 1)[1] for line in method_warnings(wanted, model)] == untrained


def test_clean_known_frames_need_a_model_that_takes_their_timestep() -> None:
    asked = request(method="autoregressive", conditioning="clean")
    with pytest.raises(ConfigError, match=r"--conditioning clean .* takes one for all; use"):
        prepare(asked, facts(), 1)


@pytest.mark.parametrize(
    "asked", [{"method": "masked-continuation"}, {"method": "fifo"}, {"front_frames": 4}]
)
def test_a_timestep_for_every_frame_needs_a_model_that_takes_it(asked: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match="every frame a timestep of its own, and a model takes one"
    ):
        prepare(request(**asked), facts(), 1)


def test_the_short_case_is_the_model_itself_whatever_fronts_it_has() -> None:
    model = facts(frame_timesteps=True, frames_per_latent=4, front_frames=2)  # 17 frames: 5 latent
    long, short = (prepare(request(local_frames=n), model, 1).how for n in (3, 4))
    assert (long.front_frames, long.front_span) == (2, 192)
    assert (short.front_frames, short.front_span) == (0, None)
    for asked in ({"front_frames": 3}, {"front_span": 9}):
        how = prepare(request(local_frames=4, **asked), model, 1).how
        assert how.front_frames and how.front_span, "what is asked for is done"
