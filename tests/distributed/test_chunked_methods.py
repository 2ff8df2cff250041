"""Methods that go by chunks or by frames, against loops by hand over diffusers' own parts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import wan_harness
from tests.distributed.harness import (
    TOLERANCE,
    Case,
    around,
    load,
    on_threads,
    relative_difference,
    run_of,
)
from tests.distributed.test_methods import WRONG_IS_BEYOND, noise_of, ours
from tests.tiny import tiny_pipe, tiny_unet
from tests.tiny_wan import tiny_transformer
from video_infinity.comm import SingleCommunicator
from video_infinity.context.install import installed
from video_infinity.context.layers import ClipContext
from video_infinity.context.text import FrameText
from video_infinity.errors import ConfigError, ModelError, PlanError
from video_infinity.methods import METHODS
from video_infinity.methods.continuation import ChunkSteps
from video_infinity.methods.fifo import queue_windows
from video_infinity.methods.loop import whole_plan
from video_infinity.noise import HELD_STEP, QUEUE_STEP, frame_generator, initial_noise
from video_infinity.preflight import prepare
from video_infinity.sampling import noised, start

STEPS, FRAMES = 3, 11


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = tiny_pipe()
    made.set_progress_bar_config(disable=True)
    return made


# A timestep for every frame, which diffusers' UNet does not take


class _PerFrame(torch.Tensor):
    """A time embedding that gives every frame its own where the model repeats it for all."""

    frames: torch.Tensor

    def repeat_interleave(self, *_: Any, **__: Any) -> torch.Tensor:  # type: ignore[override]
        return self.frames


class PerFrameTime(torch.nn.Module):
    """In the place of a UNet's time embedding, for a reference: not how the engine does it."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.inner, self.project = unet.time_embedding, unet.time_proj
        self.timestep_F = torch.zeros(0)

    def forward(self, sample: torch.Tensor, _: Any = None) -> torch.Tensor:
        emb = self.inner(sample).as_subclass(_PerFrame)
        rows = self.inner(self.project(self.timestep_F).to(sample.dtype))
        emb.frames = rows.repeat(len(sample), 1)
        return emb


def reference_unet(unet: Any) -> Any:
    copied = copy.deepcopy(unet)
    copied.time_embedding = PerFrameTime(copied)
    return copied


@torch.inference_mode()
def predict(unet: Any, z_BCFHW: torch.Tensor, timestep_F: torch.Tensor, text: Any) -> Any:
    unet.time_embedding.timestep_F = timestep_F
    return unet(z_BCFHW, timestep_F[0], text)[0]


Z_BCFHW = torch.randn(2, 4, 6, 4, 4, generator=torch.Generator().manual_seed(0))
TIMES_F = torch.tensor([0, 0, 100, 400, 700, 999])


def ours_per_frame(adapter: Any, timestep: torch.Tensor) -> torch.Tensor:
    text = FrameText(torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16), ((0,) * 6, (1,) * 6))
    context = ClipContext(SingleCommunicator(), whole_plan(6), text)
    with (
        torch.inference_mode(),
        installed(adapter.sites(), context, per_frame_times=True),
        context.timed(timestep.expand(6), 2),
    ):
        return adapter.denoise(Z_BCFHW, timestep, text)


def test_a_unet_takes_a_timestep_for_every_frame() -> None:
    unet = tiny_unet()
    text = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16)
    made = ours_per_frame(around(unet), TIMES_F)
    expected = predict(reference_unet(unet), Z_BCFHW, TIMES_F, text)
    assert relative_difference(made, expected) < TOLERANCE
    one_for_all = predict(reference_unet(unet), Z_BCFHW, TIMES_F[4:5].expand(6), text)
    assert relative_difference(made, one_for_all) > WRONG_IS_BEYOND
    with torch.inference_mode():
        unmodified = unet(Z_BCFHW, TIMES_F[4], text)[0]
    assert relative_difference(one_for_all, unmodified) < TOLERANCE
    same = ours_per_frame(around(unet), TIMES_F[4:5].expand(6))
    assert relative_difference(same, unmodified) < TOLERANCE


def test_wan_takes_a_timestep_for_every_frame() -> None:
    adapter = wan_harness.load(wan_harness.Case(), 0)
    assert adapter.facts.frame_timesteps
    made = ours_per_frame(adapter, TIMES_F)
    per_token = TIMES_F.repeat_interleave(4).expand(2, -1)
    text = torch.linspace(-1, 1, 2 * 3 * 16).view(2, 3, 16)
    with torch.inference_mode():
        expected = tiny_transformer()(Z_BCFHW, per_token, text)[0]
        one_for_all = tiny_transformer()(Z_BCFHW, TIMES_F[4].expand(2), text)[0]
    assert relative_difference(made, expected) < TOLERANCE
    assert relative_difference(made, one_for_all) > WRONG_IS_BEYOND


def test_two_experts_do_not_share_a_pass() -> None:
    case = wan_harness.Case(two_experts=True)
    facts = wan_harness.load(case, 0).facts
    for method in ("masked-continuation", "fifo"):
        more = {"method": method, "num_inference_steps": None}
        with pytest.raises(ConfigError, match="every frame a timestep of its own, and WanPipeline"):
            prepare(wan_harness.request_of(case, **more), facts, 1)


# Chunks


@torch.inference_mode()
def by_hand(
    pipe: Any, noise: torch.Tensor, chunks: list[range], *, told: bool, fresh: bool = True
) -> torch.Tensor:
    """The schemes over diffusers' own denoiser and DDIM. fresh: known frames are noised anew at
    every step, as RePaint has it, and not with the noise that the video starts from."""
    scheduler, unet = copy.deepcopy(pipe.scheduler), reference_unet(pipe.unet)
    scheduler.set_timesteps(STEPS)
    text, negative = pipe.encode_prompt("a b c", "cpu", 1, True)
    states, done = torch.cat((negative, text)), noise.transpose(0, 1)[None].clone()
    end = 0
    for chunk in chunks:
        known = done[:, :, chunk.start : end].clone()
        count, z = known.shape[2], noise[chunk.start : chunk.stop].transpose(0, 1)[None]
        unit = z[:, :, :count].clone()
        z = z.clone()
        for step, t in enumerate(scheduler.timesteps):
            if fresh and count:
                held = range(chunk.start, chunk.start + count)
                unit = initial_noise(0, held, (4, 4, 4), key=HELD_STEP - step)
            z[:, :, :count] = known if told else scheduler.add_noise(known, unit, t[None])
            times = t.repeat(z.shape[2])
            if told:
                times[:count] = 0
            predicted = predict(unet, z.repeat(2, 1, 1, 1, 1), times, states)
            guided = predicted[:1] + 3.0 * (predicted[1:] - predicted[:1])
            z = scheduler.step(guided, t, z).prev_sample
        z[:, :, :count] = known
        done[:, :, chunk.start : chunk.stop] = z
        end = chunk.stop
    return done[0]


CHUNKS = {
    "autoregressive": (5, 3, [range(5), range(3, 8), range(6, 11)]),
    "masked-continuation": (6, 4, [range(6), range(3, 9), range(5, 11)]),
}


@pytest.mark.parametrize("method", CHUNKS)
def test_chunks_are_those_of_a_loop_by_hand(method: str, pipe: Any, tmp_path: Path) -> None:
    width, stride, chunks = CHUNKS[method]
    noise, told = noise_of(FRAMES), method == "masked-continuation"
    more = {"method": method, "window_frames": width, "stride_frames": stride}
    made = ours(pipe, noise, tmp_path, 2, **more)
    assert relative_difference(made, by_hand(pipe, noise, chunks, told=told)) < TOLERANCE
    wrong = by_hand(pipe, noise, chunks, told=not told)
    assert relative_difference(made, wrong) > WRONG_IS_BEYOND
    if not told:
        again = by_hand(pipe, noise, chunks, told=False, fresh=False)
        assert relative_difference(made, again) > WRONG_IS_BEYOND


def test_a_model_that_knows_frames_gets_them_clean(pipe: Any, tmp_path: Path) -> None:
    """StreamingT2V conditions by what it was trained for, and so does such a model."""
    width, stride, chunks = CHUNKS["autoregressive"]
    noise = noise_of(FRAMES)
    more = {"method": "autoregressive", "window_frames": width, "stride_frames": stride}
    made = ours(pipe, noise, tmp_path, 2, knows_frames=True, **more)
    assert relative_difference(made, by_hand(pipe, noise, chunks, told=True)) < TOLERANCE
    replaced = by_hand(pipe, noise, chunks, told=False)
    assert relative_difference(made, replaced) > WRONG_IS_BEYOND


@pytest.mark.parametrize("conditioning", ["clean", "replacement"])
def test_how_known_frames_are_given_is_as_asked(
    conditioning: str, pipe: Any, tmp_path: Path
) -> None:
    """Whatever the model was trained on."""
    width, stride, chunks = CHUNKS["autoregressive"]
    noise, told = noise_of(FRAMES), conditioning == "clean"
    more = {"method": "autoregressive", "window_frames": width, "stride_frames": stride}
    made = ours(pipe, noise, tmp_path, 2, knows_frames=not told, conditioning=conditioning, **more)
    assert relative_difference(made, by_hand(pipe, noise, chunks, told=told)) < TOLERANCE


@pytest.mark.parametrize("method", CHUNKS)
def test_known_frames_are_kept_bit_for_bit(method: str) -> None:
    """What a chunk was given it ends with; what was made once is never touched again."""
    width, stride, chunks = CHUNKS[method]
    case = Case(options={"num_frames": FRAMES, "window_frames": width, "stride_frames": stride})

    def walk(comm: Any, adapter: Any) -> list[torch.Tensor]:
        job = run_of(case, comm, adapter, method=method).job()
        return [z.clone() for z in METHODS[method].denoise(job)]

    per_rank = on_threads(2, lambda rank: load(case, rank), walk)
    states = [torch.cat(parts, 2) for parts in zip(*per_rank, strict=True)]
    assert len(states) == STEPS * len(chunks)
    for index, chunk in enumerate(chunks):
        after = states[(index + 1) * STEPS - 1][:, :, : chunk.stop]
        assert torch.equal(after, states[-1][:, :, : chunk.stop])
        if index:
            before = states[index * STEPS - 1]
            new = slice(chunks[index - 1].stop, chunk.stop)
            assert not torch.equal(before[:, :, new], after[:, :, new])


@pytest.mark.parametrize("method", CHUNKS)
def test_a_chunk_ends_with_the_very_frames_it_was_given(method: str) -> None:
    case = Case(options={"num_frames": FRAMES, "window_frames": 5, "stride_frames": 3})
    job = run_of(case, SingleCommunicator(), load(case, 0), method=method).job()
    known = torch.randn(1, 4, 2, 4, 4)
    told = method == "masked-continuation"
    hold = noised if not told else lambda scheduler, clean, noise, step: clean
    with torch.inference_mode():
        steps = ChunkSteps(job, range(3, 8), known, hold, told=told)
        for _ in range(STEPS):
            next(steps)
        assert torch.equal(steps.whole()[:, :, :2], known)
        other = ChunkSteps(job, range(3, 8), known + 1, hold, told=told)
        for _ in range(STEPS):
            next(other)
    assert relative_difference(other.whole()[:, :, 2:], steps.whole()[:, :, 2:]) > 1e-3


def test_more_ranks_than_a_chunk_has_frames_are_refused() -> None:
    case = Case(options={"num_frames": FRAMES, "window_frames": 3, "method": "autoregressive"})
    with pytest.raises(PlanError, match=r"shares chunks of 3 latent frames .* and 4 are too many"):
        on_threads(4, lambda r: load(case, r), lambda comm, adapter: run_of(case, comm, adapter))


@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"],
)
def test_noised_frames_have_the_noise_of_their_step(name: str) -> None:
    """Zero noised is noise at that step's level, and falls from step to step."""
    import diffusers

    scheduler = getattr(diffusers, name)()
    start(scheduler, 8, "cpu")
    one = torch.ones(1, 4, 2, 4, 4)
    levels = [float(noised(scheduler, 0 * one, one, step).mean()) for step in range(8)]
    assert levels == sorted(levels, reverse=True) and levels[0] > 2 * levels[-1]
    clean = [float(noised(scheduler, one, 0 * one, step).mean()) for step in range(8)]
    assert clean == sorted(clean) and clean[-1] > 0.9
    scheduler.step(one[0], scheduler.timesteps[0], one[0])
    again = [float(noised(scheduler, 0 * one, one, step).mean()) for step in range(8)]
    assert again == levels, "a step that was taken shows"


# FIFO


@pytest.mark.parametrize(("width", "size"), [(2, 2), (4, 8), (5, 5), (5, 15), (1, 3), (16, 64)])
def test_every_place_of_the_queue_is_kept_once_with_cleaner_frames_before_it(
    width: int, size: int
) -> None:
    before = width // 2
    windows = queue_windows(width, size)
    kept = [place for w in windows for place in range(w.kept, w.stop)]
    assert kept == list(range(before, before + size))
    assert all(w.stop - w.start == width and w.start >= 0 for w in windows)
    assert all(w.kept - w.start >= before for w in windows)
    if not width % 2:
        assert len(windows) == 2 * size // width


@torch.inference_mode()
def fifo_by_hand(pipe: Any, noise: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Windows of 2, a queue of 4, DDIM: places 0, 1, 2 and 3 take steps 3, 2, 1 and 0."""
    scheduler, unet = copy.deepcopy(pipe.scheduler), reference_unet(pipe.unet)
    scheduler.set_timesteps(4)
    times = scheduler.timesteps
    text, negative = pipe.encode_prompt("a b c", "cpu", 1, True)
    states = torch.cat((negative, text))

    def guided(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        predicted = predict(unet, z.repeat(2, 1, 1, 1, 1), t, states)
        return predicted[:1] + 3.0 * (predicted[1:] - predicted[:1])

    first = noise[:2].transpose(0, 1)[None]
    for t in times:
        first = scheduler.step(guided(first, t.repeat(2)), t, first).prev_sample
    queue, front = [], first[:, :, :1]
    for place, frame in enumerate((-2, -1, 0, 1)):
        unit = initial_noise(0, [frame], (4, 4, 4), key=QUEUE_STEP)
        clean = first[:, :, max(0, frame)][:, :, None]
        queue.append(scheduler.add_noise(clean, unit, times[3 - place][None]))
    out = []
    for iteration in range(2 + num_frames):
        row, levels = [front, *queue], [torch.tensor(0), *times.flip(0)]
        stepped = []
        for place in range(1, 5):  # each with the cleaner one before it
            z = torch.cat((row[place - 1], row[place]), 2)
            noise_of_both = guided(z, torch.stack((levels[place - 1], levels[place])))
            prev = scheduler.step(noise_of_both[:, :, 1:], levels[place], row[place]).prev_sample
            stepped.append(prev)
        front, *queue = stepped
        out.append(front)
        frame = iteration + 2
        own = noise[frame].view(1, 4, 1, 4, 4) if frame < num_frames else None
        queue.append(own if own is not None else initial_noise(0, [frame], (4, 4, 4)))
    return torch.cat(out[2:], 2)[0]


def test_fifo_is_the_queue_of_a_loop_by_hand(pipe: Any, tmp_path: Path) -> None:
    noise = noise_of(5)
    more = {"method": "fifo", "window_frames": 2, "num_inference_steps": 4}
    made = ours(pipe, noise, tmp_path, 2, **more)
    expected = fifo_by_hand(pipe, noise, 5)
    assert relative_difference(made, expected) < TOLERANCE
    assert relative_difference(made[:, 1:], expected[:, :-1]) > WRONG_IS_BEYOND


def test_frames_leave_the_queue_in_order_at_the_right_timesteps() -> None:
    options = {"num_frames": 3, "window_frames": 4, "num_inference_steps": 8}
    case = Case(options={**options, "method": "fifo"})
    adapter: Any = load(case, 0)
    job = run_of(case, SingleCommunicator(), adapter).job()
    told: list[list[int]] = []
    denoise = adapter.denoise

    def spy(z: torch.Tensor, timestep: torch.Tensor, text: FrameText) -> torch.Tensor:
        if timestep.ndim:
            told.append(timestep.tolist())
        return denoise(z, timestep, text)  # type: ignore[no-any-return]

    adapter.denoise = spy
    states = [z.clone() for z in METHODS["fifo"].denoise(job)]
    assert len(states) == METHODS["fifo"].num_steps(job.how, 3, 8) == 8 + (8 - 4) + 3
    rising = job.scheduler.timesteps.tolist()[::-1]
    places = [0, 0, *rising]
    assert told == [places[start : start + 4] for start in (0, 2, 4, 6)] * 7
    noise = states[0]
    for frame in range(3):
        done = 8 + 4 + frame
        assert torch.equal(states[done - 1][:, :, frame], noise[:, :, frame])
        assert not torch.equal(states[done][:, :, frame], noise[:, :, frame])
        assert torch.equal(states[done][:, :, frame], states[-1][:, :, frame])


def test_the_queue_draws_no_noise_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames 0 to W - 1 take steps that those which the model made first have taken before."""
    drawn: list[tuple[int, int]] = []

    def record(seed: int, frame: int, step: int) -> torch.Generator:
        drawn.append((frame, step))
        return frame_generator(seed, frame, step)

    options = {"num_frames": 3, "window_frames": 4, "num_inference_steps": 8, "eta": 1.0}
    case = Case(options={**options, "method": "fifo"})
    job = run_of(case, SingleCommunicator(), load(case, 0)).job()
    monkeypatch.setattr("video_infinity.sampling.frame_generator", record)
    assert len(list(METHODS["fifo"].denoise(job))) == 15
    _, *used = drawn  # the first was a trial: can the scheduler begin at any step?
    assert len(set(used)) == len(used) == 4 * 8 + 8 * 7


def test_a_scheduler_that_cannot_begin_at_any_step_is_refused() -> None:
    case = Case(
        scheduler="PNDMScheduler",
        options={"num_frames": 6, "window_frames": 4, "num_inference_steps": 8},
    )
    run = run_of(case, SingleCommunicator(), load(case, 0), method="fifo")
    with pytest.raises(ModelError, match="every frame at another step, and PNDMScheduler cannot"):
        run.denoise()
