"""kill -9 of any rank at any moment costs the steps since the last checkpoint, and no more."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from diffusers import DPMSolverMultistepScheduler

from tests.end_to_end import program
from tests.faults.injected import KILL
from tests.faults.runs import (
    PROMPT,
    SETTINGS,
    assert_as_promised,
    assert_resumes,
    assert_same,
    environment,
    generate,
    last_line,
    latents,
    resume,
    steps_saved,
    to_its_end,
    words,
)
from tests.tiny import save_tiny_model
from tests.tiny_wan import save_tiny_wan


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(
    model: Path, whole: Path, here: Path
) -> None:
    failed = generate(model, here, armed=(f"step:6:1:{KILL}",))
    assert failed.returncode == 1
    assert "rank 1 failed: killed by SIGKILL" in last_line(failed)
    assert f"video-infinity resume {shlex.quote(str(here / 'v.run'))}\n" in failed.stderr
    assert steps_saved(here / "v.run") == [2, 4]
    again = generate(model, here)
    assert again.returncode == 2 and "can be gone on with" in again.stderr
    assert_resumes(here, whole)


MOMENTS = ("join:1", "load:1", "step:1", "layer:3", "save:1", "save:2", "decode:1")
"""Start, load, denoise before and in a layer, the first checkpoint, a later one, decode."""
MOMENTS_OF_RANK_0 = ("commit:1", "commit:2", "picture:1", "finish:1")
"""What it alone does: the marker of a checkpoint, pictures that are kept, the file."""


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "moments"), [(0, MOMENTS), (1, MOMENTS), (0, MOMENTS_OF_RANK_0)])
def test_kill_after_kill_in_every_phase(
    rank: int, moments: tuple[str, ...], model: Path, whole: Path, here: Path
) -> None:
    """One run: killed at a moment, gone on with and killed at the next, and so on."""
    for moment in moments:
        armed = (f"{moment}:{rank}:{KILL}",)
        begun = (here / "v.run").exists()
        failed = resume(here, armed=armed) if begun else generate(model, here, armed=armed)
        assert failed.returncode == 1, failed.stderr
        assert f"rank {rank} failed: killed by SIGKILL" in last_line(failed)
    assert_resumes(here, whole)


@pytest.mark.slow
def test_a_death_after_the_last_act_is_no_failure(model: Path, whole: Path, here: Path) -> None:
    finished = generate(model, here, armed=(f"renamed:1:0:{KILL}",))
    assert finished.returncode == 0, finished.stderr
    assert_same(here, whole)


@pytest.mark.slow
def test_it_goes_on_by_itself(model: Path, whole: Path, here: Path) -> None:
    """Three failures, three restarts; each goes on from the last checkpoint."""
    armed = (
        f"step:3:1:{KILL}",
        "layer:7:0:raise ArithmeticError('one and one')",
        f"finish:1:0:{KILL}",
    )
    finished = generate(model, here, "--max-restarts", "3", armed=armed)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("the run goes on by itself") == 3
    assert_same(here, whole)


STORY = "[{start: 0, prompt: a b c}, {start: 4, prompt: d e, transition: 6}]"


@pytest.mark.slow
def test_on_other_ranks_in_the_middle_of_everything(tmp_path: Path) -> None:
    """A multistep and stochastic scheduler, a rotating global context, prompts over time."""
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    model = save_tiny_model(tmp_path / "sde", scheduler=scheduler)
    story = tmp_path / "story.yaml"
    story.write_text(STORY)

    def told(num_ranks: int) -> list[str]:
        more = ("--timeline", str(story), "--global-rule", "rotating")
        return [w for w in words(model, *more, num_ranks=num_ranks) if w != PROMPT]

    whole = tmp_path / "whole"
    whole.mkdir()
    assert to_its_end(told(2), whole, ()).returncode == 0
    for before, after in ((2, 1), (2, 3), (3, 2), (2, 2)):
        here = tmp_path / f"{before} to {after}"
        here.mkdir()
        failed = to_its_end(told(before), here, (f"step:4:1:{KILL}",))
        assert failed.returncode == 1 and "rank 1 failed: killed" in last_line(failed)
        assert steps_saved(here / "v.run") == [2], "in the middle of the scheduler's history"
        resumed = resume(here, num_ranks=after)
        assert resumed.returncode == 0, resumed.stderr
        if before == after:
            assert_same(here, whole)
        else:
            assert_as_promised(here, whole)


@pytest.mark.slow
def test_wan_goes_on_in_the_middle_of_decoding(tmp_path: Path) -> None:
    """On as many ranks the same bits; on others what is promised, from the chunk where it was."""
    model = save_tiny_wan(tmp_path / "wan")
    more = ("--num-frames", "61", "--checkpoint-every", "1")
    whole = tmp_path / "whole"
    whole.mkdir()
    assert generate(model, whole, *more).returncode == 0
    for num_ranks in (2, 1, 3):
        here = tmp_path / f"on {num_ranks}"
        here.mkdir()
        failed = generate(model, here, *more, armed=(f"decode:2:1:{KILL}",))
        assert failed.returncode == 1 and "rank 1 failed: killed" in last_line(failed)
        spooled = json.loads((here / "v.run" / "spool" / "marker.json").read_text())["body"]
        assert spooled["chunk"] == 2 and spooled["frames"] == 29
        resumed = resume(here, num_ranks=num_ranks)
        assert resumed.returncode == 0, resumed.stderr
        assert latents(here).equal(latents(whole)), "nothing was denoised again"
        if num_ranks == 2:
            assert_same(here, whole)
        else:
            assert_as_promised(here, whole)


@pytest.mark.slow
def test_torchrun_starts_it_again_where_it_was(model: Path, whole: Path, here: Path) -> None:
    torchrun = [program.PROGRAM[0], "-m", "torch.distributed.run", "--standalone"]
    finished = program.run(
        *("generate", "a b c", "--model", model, *SETTINGS, "--report", "r.json"),
        cwd=here,
        environment=environment(here, (f"step:5:1:{KILL}",))
        | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        program=[*torchrun, "--nproc-per-node=2", "--max-restarts=1", "-m", "video_infinity"],
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads((here / "r.json").read_text())["first_step"] == 4
    (here / "r.json").unlink()
    assert_same(here, whole)


# Twenty of one run

MANY_STEPS = ("--num-inference-steps", "120", "--checkpoint-every", "1", "--num-frames", "5")
NUM_KILLS = 20


class Watched:
    """A run whose steps are counted while it works."""

    def __init__(self, told: list[str], cwd: Path, log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            streams = {"stdin": subprocess.DEVNULL, "stderr": stderr}
            self.running = program.Running([*told, "--log-json"], cwd, streams=streams)

    def num_steps(self) -> int:
        return self._log.read_text().count('"event": "step"')

    def is_over(self) -> bool:
        return self.running.process.poll() is not None

    def kill_one(self, draw: random.Random, *, by_steps: bool) -> None:
        """After so many seconds, most of which are spent on starting, or after so many steps."""
        victim = draw.randrange(2)
        seconds, steps = (120.0, draw.randint(1, 5)) if by_steps else (draw.uniform(0, 8), 3)
        assert program.eventually(lambda: len(self.running.ranks()) == 2 or self.is_over(), 120)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.num_steps() < steps and not self.is_over():
            time.sleep(0.02)
        assert not by_steps or self.num_steps() >= steps, "no step in two minutes"
        ranks = self.running.ranks()
        if len(ranks) == 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ranks[victim], signal.SIGKILL)

    def end(self) -> str:
        """The last line of a run that was killed."""
        begin = time.monotonic()
        finished = self.running.finish(timeout_s=60)
        assert self.running.all_gone()
        assert time.monotonic() - begin < 60
        text = self._log.read_text()
        assert finished.returncode == 1, f"it was over before the kill, or did not see it: {text}"
        return text.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twenty_kills_at_random_moments(model: Path, tmp_path: Path, here: Path) -> None:
    """Of one run, seeded; the run completes in the end, with the video of one that was left alone.

    Half of the kills come after so many seconds and half after so many steps: a fast machine does
    not finish before the twentieth, and a slow one does not die in its start each time.
    """
    whole = tmp_path / "whole"
    whole.mkdir()
    assert generate(model, whole, *MANY_STEPS, "--checkpoint-every", "never").returncode == 0
    draw, told = random.Random(5), words(model, *MANY_STEPS)
    for number in range(NUM_KILLS):
        watched = Watched(told, here, tmp_path / f"log {number}")
        watched.kill_one(draw, by_steps=number % 2 == 1)
        assert "killed by SIGKILL" in watched.end(), number
        told = ["resume", "v.run", "--nproc-per-node", "2"]
    assert_resumes(here, whole)
