"""The report: made once, gone on with, and told with its intervals."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import video_infinity
from benchmarks.fitting import longest_jobs
from benchmarks.machine import describe, in_words
from benchmarks.quality import main, prompts, render_real, write_page
from benchmarks.quality_page import Shown, costs, page, plots
from benchmarks.studies import (
    FRAMES_PER_LATENT,
    REAL,
    STUDIES,
    Column,
    Study,
    jobs_of,
)
from benchmarks.times import TIMES, machines_of, read_times, take_times, timed
from video_infinity_evaluation import Backends, EvaluationError
from video_infinity_evaluation.batch import options_of
from video_infinity_evaluation.footage import open_footage
from video_infinity_evaluation.pages import contact_sheet, summary, tables
from video_infinity_evaluation.report import (
    ROWS,
    TOLD,
    Job,
    Made,
    Row,
    borders_of,
    defaults_of,
    generate,
    is_made,
    keep_made,
    made_of,
    make_together,
    read_rows,
    run_jobs,
    video_file,
    weights_of,
)
from video_infinity_evaluation.statistics import interval
from video_infinity_evaluation.world.truth import Witness

PROMPTS = (
    "a red seven moving left on a navy background",
    "a blue three moving up on a black background",
)
JOBS = [Job(method, prompt, 1, 12, 3) for prompt in PROMPTS for method in (REAL, "shuffled")]


def shuffled(job: Job, path: Path) -> Made:
    """A method that shows frames of another prompt, the world's own, and calls them clips of 4."""
    other = Job(job.method, PROMPTS[1 - PROMPTS.index(job.prompt)], job.seed, job.num_frames, 3)
    return replace(render_real(other, path), borders=(4, 8))


def refuse(job: Job, path: Path) -> Made:
    raise EvaluationError(f"{job.method}: cannot")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def rows(folder: Path, backends: Backends) -> list[Row]:
    makers = {REAL: render_real, "shuffled": shuffled}
    return run_jobs(JOBS, folder, makers, backends, lambda _: None)


def test_a_row_holds_the_job_the_borders_and_what_was_measured(rows: list[Row]) -> None:
    assert [row["job"]["method"] for row in rows] == [REAL, "shuffled"] * 2
    for row in rows:
        borders = {REAL: [], "shuffled": [4, 8]}[row["job"]["method"]]
        assert row["made"]["borders"] == borders
        assert (row["measures"]["seam_ratio_pixels"]["value"] is None) == (not borders)
        right = row["measures"]["digit right (frames)"]["value"]
        assert right == (1 if row["job"]["method"] == REAL else 0)


def test_what_is_there_is_not_made_again(folder: Path, rows: list[Row], backends: Backends) -> None:
    said: list[str] = []
    makers = {REAL: refuse, "shuffled": refuse}
    assert run_jobs(JOBS, folder, makers, backends, said.append) == rows
    assert said == []
    whole = (folder / ROWS).read_bytes()
    (folder / ROWS).write_bytes(whole[:-40])
    assert list(read_rows(folder)) == JOBS[:-1], "the last line was cut off"
    again = run_jobs(JOBS, folder, makers, backends, said.append)
    assert again == rows, "from the video, which was there"
    assert len(said) == 1
    assert list(read_rows(folder)) == JOBS


def test_what_other_weights_made_is_made_again(tmp_path: Path, backends: Backends) -> None:
    shutil.copytree(Path(video_infinity.__file__).parent / "demo" / "model", tmp_path / "model")
    model = str(tmp_path / "model")
    job = replace(JOBS[1], model=model)

    def by_today(job: Job, path: Path) -> Made:
        weights_of.cache_clear()
        return replace(shuffled(replace(job, model="demo"), path), weights=weights_of(model))

    (row,) = run_jobs([job], tmp_path, {"shuffled": by_today}, backends, lambda _: None)
    defaults = tmp_path / "model" / "video_infinity.json"
    defaults.write_text(
        defaults.read_text().replace('"guidance_scale": 3.0', '"guidance_scale": 2')
    )
    weights_of.cache_clear()
    assert is_made(tmp_path, job)
    defaults_of.cache_clear()
    assert read_rows(tmp_path) == {job: row}, "a row keeps its settings"
    assert not is_made(tmp_path, job), "a video without a row would be another one today"
    keep_made(tmp_path, job, by_today(job, video_file(tmp_path, job)))
    assert is_made(tmp_path, job)
    weights = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)
    weights_of.cache_clear()
    assert read_rows(tmp_path) == {} and not is_made(tmp_path, job)
    (again,) = run_jobs([job], tmp_path, {"shuffled": by_today}, backends, lambda _: None)
    assert again["made"]["weights"] != row["made"]["weights"]
    assert read_rows(tmp_path) == {job: again}, "the later line counts"
    told = video_file(tmp_path, job).with_suffix(".made")
    told.write_text('{"borders": []}')
    assert not is_made(tmp_path, job), "by a version that noted no weights"
    shutil.rmtree(tmp_path / "model")
    weights_of.cache_clear()
    assert read_rows(tmp_path) == {}


def test_one_that_fails_is_told_and_the_others_go_on(tmp_path: Path, backends: Backends) -> None:
    said: list[str] = []
    makers = {REAL: render_real, "shuffled": refuse}
    rows = run_jobs(JOBS[:2], tmp_path, makers, backends, said.append)
    assert [row["job"]["method"] for row in rows] == [REAL]
    assert "failed: shuffled: cannot" in said


def test_another_job_has_another_key() -> None:
    keys = {job.key() for job in JOBS}
    assert len(keys) == len(JOBS)
    assert Job("a", "b", 1, 12, 3, options=("--x",)).key() != Job("a", "b", 1, 12, 3).key()


def test_tables_have_means_intervals_and_counts(rows: list[Row]) -> None:
    text = tables(rows)
    assert "## 12 frames" in text
    assert f"| measure | good | {REAL} | shuffled |" in text
    assert "| digit right (frames) | ↑ | 1 ± 0 (2) | 0 ± 0 (2) |" in text
    values = [row["measures"]["temporal_flickering"]["value"] for row in rows[::2]]
    assert summary(rows, REAL, "temporal_flickering") == interval(values)
    assert f"| temporal_flickering | ↑ | {interval(values)} (2) |" in text
    assert "| subject_consistency* |" in text and "not with VBench" in text
    assert "aesthetic_quality" not in text, "it was not measured"


@pytest.mark.parametrize(
    ("seeds", "each"), [((1, 1, 2, 2), "1"), ((1, 2, 1, 2), "2"), ((1, 1, 2, 3), "1 to 2")]
)
def test_seeds_are_counted_by_prompt(rows: list[Row], seeds: tuple[int, ...], each: str) -> None:
    seeded = [
        {**row, "job": {**row["job"], "seed": seed}} for row, seed in zip(rows, seeds, strict=True)
    ]
    assert f"2 prompts, seeds of each: {each}.\n" in tables(seeded)


def test_a_sheet_has_a_row_for_each_video(folder: Path, rows: list[Row]) -> None:
    data = contact_sheet([video_file(folder, job) for job in JOBS[:2]], 4, 32)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (4 * 34, 2 * 34)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pixels[:32, :32] - pixels[34:66, :32]).mean() > 5


TWO = Study("two", "Two", (Column("up", "shuffled"), Column(REAL, REAL)), {12: 2, 24: 1})


def test_a_study_goes_by_rounds_of_prompts_and_a_model_makes_the_frames_it_can() -> None:
    jobs = jobs_of(TWO, "demo", PROMPTS, ranks=3, steps=6)
    assert [name for name, _ in jobs] == ["up", "up", REAL, REAL, "up", REAL]
    assert [job.num_frames for _, job in jobs] == [12] * 4 + [24] * 2
    assert [job.prompt for _, job in jobs] == [*PROMPTS, *PROMPTS, PROMPTS[0], PROMPTS[0]]
    assert jobs[0][1].options == ("--num-inference-steps", "6") and jobs[2][1].options == ()
    seven, many = replace(TWO, prompts={12: 7}), [f"{number}" for number in range(7)]
    names = [name for name, _ in jobs_of(seven, "demo", many, ranks=3, steps=None)]
    assert names == ["up"] * 5 + [REAL] * 5 + ["up"] * 2 + [REAL] * 2
    wan = jobs_of(TWO, "demo-wan", PROMPTS, ranks=3, steps=None)
    assert {job.num_frames for _, job in wan} == {13, 25}
    assert {job.model for _, job in wan} == {"demo-wan"}
    assert [job.seed for _, job in wan] == [1, 2, 1, 2, 1, 1], "by the prompt, in every column"


def test_the_worlds_own_videos_differ_and_are_cut_like_the_models(tmp_path: Path) -> None:
    jobs = [Job(REAL, text, seed, 65, 2, "demo-wan") for seed, text in enumerate(PROMPTS)]
    made = [render_real(job, tmp_path / f"{job.seed}.mp4") for job in jobs]
    assert [m.borders for m in made] == [(29,), (29,)], "latent frame 8 of 17 begins there"
    tracks = []
    for job in jobs:
        witness = Witness()
        witness.see_all(list(open_footage(tmp_path / f"{job.seed}.mp4")))
        tracks.append(np.abs(np.diff(witness.sighting().centre_F2, axis=0)).sum(1))
    assert np.abs(tracks[0] - tracks[1]).max() > 0.9, "each has a motion of its own"


def test_pictures_of_other_weights_and_rows_go(rows: list[Row], tmp_path: Path) -> None:
    shown, images = shown_of(rows), tmp_path / "images"
    images.mkdir()
    wan = "results-two-demo-wan-abcdef-abcdef.png"
    others = (wan, "results-two-demo-wan.svg", "contact_sheet.png")
    earlier = shown.sheet.replace(defaults_of("demo")[:6], "abcdef")
    assert earlier != shown.sheet and weights_of("demo")[:6] in shown.sheet
    for name in (*others, earlier, shown.sheet):
        (images / name).write_bytes(b"")
    write_page(tmp_path / "page.md", [shown], tmp_path, "", "")
    kept = {path.name for path in images.iterdir()}
    assert kept == {*others, shown.sheet, "results-two-demo.svg"}
    half = {job: row for job, row in shown.rows.items() if job.num_frames == 12}
    few = Shown(TWO, "demo", shown.jobs, half)
    write_page(tmp_path / "page.md", [few], tmp_path, "", "")
    assert not (images / "results-two-demo.svg").exists(), "there is nothing to plot any more"
    assert f"images/{shown.sheet}" in (tmp_path / "page.md").read_text()


def test_no_video_stands_in_two_columns_of_a_study() -> None:
    for study in STUDIES:
        for model in study.models:
            jobs = jobs_of(study, model, prompts(), ranks=2, steps=None)
            assert len({job for _, job in jobs}) == len(jobs)


def shown_of(rows: list[Row]) -> Shown:
    """As if the methods of JOBS had been measured at two lengths."""
    jobs, found = [], {}
    for num_frames in (12, 24):
        for row, name in zip(rows, ("real", "up") * 2, strict=True):
            job = Job(name, row["job"]["prompt"], 1, num_frames, 3)
            jobs.append((name, job))
            told = {**row["job"], "method": name, "num_frames": num_frames}
            found[job] = {**row, "job": told}
    return Shown(TWO, "demo", jobs, found)


def test_the_page_tells_how_to_repeat_it_and_what_grows(rows: list[Row], tmp_path: Path) -> None:
    shown = shown_of(rows)
    (tmp_path / "images").mkdir()
    text = page([shown], tmp_path / "images", "python -m benchmarks.quality --ranks 3", "a machine")
    assert "`python -m benchmarks.quality --ranks 3 --out DIR --page FILE`" in text
    assert "Times were taken on a machine." in text and "images/" not in text, "no picture is there"
    assert "Time and memory" not in text, "nothing was timed"
    assert "| all words right (frames) | 12 frames | 24 frames |" in text
    assert "| real | 1 ± 0 (2) | 1 ± 0 (2) |" in text
    half = {job: row for job, row in shown.rows.items() if job.num_frames == 12}
    part = Shown(TWO, "demo", shown.jobs, half)
    told = page([part], tmp_path / "images", "", "")
    assert "4 of 8 videos are measured" in told and "24 frames" not in told


def test_times_are_medians_and_tell_what_grows_and_what_fits(
    rows: list[Row], tmp_path: Path
) -> None:
    shown = shown_of(rows)
    once = {job.num_frames: job for column, job in shown.jobs[::-1] if column == "up"}
    times = {
        job: [
            Made((), {"denoise": 10.0 * cost, "load": 99.0}, (5 * 2**20, 2**26 * cost))
            for cost in ((num_frames // 12), 0, 9)
        ]
        for num_frames, job in once.items()
    }
    one = replace(shown, times=times)
    assert "Time and memory" not in page([one], tmp_path, "", ""), "nothing to compare it with"
    other = {replace(job, method="down"): made for job, made in times.items()}
    two = replace(one, jobs=[*one.jobs, *(("down", job) for job in other)], times=times | other)
    text = page([two], tmp_path, "", "")
    for name in ("up", "down"):
        row = f"| {name} | 10.0 | 20.0 | 1.00 | 67 | 134 |  | 192 |"
        assert row in text, "seconds, power, MB, frames that fit"


def test_the_longest_video_that_fits_is_made_where_it_takes_less_than_hours() -> None:
    """Two lengths of each method; the line through them meets the limit at 1,024 frames."""
    jobs = [Job(name, PROMPTS[0], 1, n, 3) for name in ("up", "down") for n in (128, 256)]

    def took(seconds: float, mib: int) -> list[Made]:
        return [Made((), {"denoise": seconds}, (0, mib << 20), {}, weights_of("demo"))]

    known = {jobs[0]: took(1.0, 128), jobs[1]: took(2.0, 256)}
    slow = {jobs[2]: took(1000.0, 128), jobs[3]: took(2000.0, 256)}
    assert longest_jobs(jobs, known | slow) == [replace(jobs[0], num_frames=1024)]
    assert longest_jobs(jobs, {jobs[0]: took(1.0, 128)}) == [], "one length says nothing of growth"
    flat = {jobs[0]: took(1.0, 128), jobs[1]: took(2.0, 128)}
    assert longest_jobs(jobs, flat) == [], "any length fits"
    wan = [replace(job, model="demo-wan") for job in jobs[:2]]
    found = longest_jobs(wan, dict(zip(wan, known.values(), strict=True)))
    assert found == [replace(wan[0], num_frames=1021)], "a length that the model makes, and fits"

    made = known | {replace(jobs[0], num_frames=1024): took(9.0, 2048)}
    assert longest_jobs(jobs, made) == [], "it was made, once"
    short = known | {replace(jobs[0], num_frames=512): took(4.0, 384)}
    assert longest_jobs(jobs, short) == [], "and is not made again if it took less"
    shown = Shown(TWO, "demo", [(job.method, job) for job in jobs], {}, made | slow)
    assert costs(shown).splitlines()[2:] == [
        "| up | 1.0 | 2.0 | 1.00 | 134 | 268 | 1,024: 2,147 | 585 |",
        "| down | 1000.0 | 2000.0 | 1.00 | 134 | 268 |  | 1,024 |",
    ]


def test_every_method_is_timed_in_turn_and_a_run_goes_on(tmp_path: Path) -> None:
    """Two prompts of two methods at three lengths: one prompt each, 3, 2 and 1 times."""
    jobs = [
        Job(method, text, 1, num_frames, 2)
        for num_frames in (600, 192, 64)
        for text in PROMPTS
        for method in ("up", "down")
    ]
    assert timed(jobs) == [job for job in jobs if job.prompt == PROMPTS[0]]
    order: list[tuple[int, str]] = []
    (tmp_path / "videos").mkdir()
    kept = video_file(tmp_path, jobs[4])
    kept.write_bytes(b"of another sitting")
    keep_made(tmp_path, jobs[4], Made((), {}, (), {}, weights_of("demo")))

    def make(job: Job, path: Path) -> Made:
        if len(order) == 7:
            raise KeyboardInterrupt
        order.append((job.num_frames, job.method))
        path.write_bytes(b"of this one")
        return Made((3,), {"denoise": 1.0}, (1, 2), {"eta": 0.0}, weights_of("demo"))

    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        take_times(jobs, tmp_path, float("inf"), make, said.append)
    with (tmp_path / TIMES).open("a") as file:
        file.write('{"cut off')
    order += [(0, "")]
    take_times(jobs, tmp_path, float("inf"), make, said.append)
    order.remove((0, ""))
    assert [n for n, _ in order] == [64] * 6 + [192] * 4 + [600] * 2
    assert all({m for _, m in order[i : i + 2]} == {"up", "down"} for i in range(0, 12, 2))
    found = read_times(tmp_path)
    assert machines_of(tmp_path) == [in_words(describe())]
    assert {job.num_frames: len(made) for job, made in found.items()} == {64: 3, 192: 2, 600: 1}
    assert found[jobs[0]] == [
        Made((3,), {"denoise": 1.0}, (1, 2), {"eta": 0.0}, weights_of("demo"))
    ]
    take_times(jobs, tmp_path, float("inf"), make, said.append)
    assert len(order) == 12 == len(said), "all is there"
    assert all(is_made(tmp_path, job) for job in timed(jobs)), "videos are kept"
    assert kept.read_bytes() == b"of another sitting", "and those that were there stay"
    take_times([replace(jobs[0], seed=5)], tmp_path, 0.0, make, said.append)
    assert len(order) == 12, "the time is up"

    def fail(job: Job, path: Path) -> Made:
        raise EvaluationError(f"{job.method}: cannot")

    take_times([replace(jobs[0], seed=5)], tmp_path, float("inf"), fail, said.append)
    assert said[-1] == "failed: up: cannot" and len(read_times(tmp_path)) == 6


def test_columns_are_compared_on_the_prompts_that_all_of_them_have(
    rows: list[Row], tmp_path: Path
) -> None:
    """Else a column whose prompts are further on would be held against easier ones."""
    shown = shown_of(rows)
    last = [job for column, job in shown.jobs if column == "up" and job.num_frames == 12][-1]
    part = Shown(
        TWO, "demo", shown.jobs, {job: row for job, row in shown.rows.items() if job != last}
    )
    text = page([part], tmp_path, "", "")
    assert "| real | 1 (1) | 1 ± 0 (2) |" in text
    others = {job: row for job, row in shown.rows.items() if job.method == "real"}
    assert "| real | 1 ± 0 (2) | 1 ± 0 (2) |" in page(
        [Shown(TWO, "demo", shown.jobs, others)], tmp_path, "", ""
    ), "a column without any video does not count"


def test_differences_are_taken_video_by_video(rows: list[Row], tmp_path: Path) -> None:
    """Two prompts that differ far more from each other than the columns do on either."""
    shown, name = shown_of(rows), "mean of the world"
    values = {("real", PROMPTS[0]): 0.2, ("real", PROMPTS[1]): 0.9}
    values |= {("up", PROMPTS[0]): 0.1, ("up", PROMPTS[1]): 0.799}
    set_to = {
        job: {
            **row,
            "measures": {name: {"group": "world", "value": values[job.method, job.prompt]}},
        }
        for job, row in shown.rows.items()
        if job.num_frames == 12
    }
    text = page([Shown(TWO, "demo", shown.jobs, set_to)], tmp_path, "", "")
    paired = interval([-0.1, -0.101])
    assert paired.half_width is not None and paired.half_width < 0.01
    assert f"| up | **{paired} (2)** |" in text
    assert "| mean of the world, less that of real | 12 frames |" in text
    unpaired = interval([0.1, 0.799])
    assert f"| up | {unpaired} (2) |" in text and (unpaired.half_width or 0) > 1
    missing = next(job for job in set_to if job.method == "up")
    few = {job: row for job, row in set_to.items() if job.prompt != missing.prompt}
    assert f"| up | {values['up', PROMPTS[1]] - 0.9:.4g} (1) |" in page(
        [Shown(TWO, "demo", shown.jobs, few)], tmp_path, "", ""
    ), "no interval, so nothing to set apart"


def test_plots_are_drawn_of_studies_with_several_lengths(rows: list[Row]) -> None:
    drawn = plots([shown_of(rows)])
    (svg,) = drawn.values()
    assert list(drawn) == ["results-two-demo.svg"]
    assert "mean of the world" in svg and ">up<" in svg
    one = Shown(TWO, "demo", [("up", JOBS[1])], {JOBS[1]: rows[1]})
    assert plots([one]) == {}


@pytest.mark.parametrize(
    ("latent", "pixel", "joins", "clips", "borders"),
    [
        (64, 64, [], [[0, 32], [32, 64]], (32,)),
        (64, 64, [16, 48], [[0, 32], [32, 64]], (16, 48)),
        (21, 81, [], [[0, 7], [7, 14], [14, 21]], (25, 53)),
        (21, 81, [1, 13], [[0, 21]], (1, 49)),
        (1, 1, [], [[0, 1]], ()),
    ],
)
def test_borders_are_joins_or_else_clips_in_pixel_frames(
    latent: int, pixel: int, joins: list[int], clips: list[list[int]], borders: tuple[int, ...]
) -> None:
    report = {"num_latent_frames": latent, "num_frames": pixel, "joins": joins, "clips": clips}
    assert borders_of(json.loads(json.dumps(report))) == borders


@pytest.mark.parametrize(
    ("model", "frames", "borders"), [("demo", 40, (13, 26)), ("demo-wan", 81, (37,))]
)
def test_what_is_made_as_one_has_borders_where_clips_of_the_known_length_would_meet(
    model: str, frames: int, borders: tuple[int, ...], tmp_path: Path
) -> None:
    real = render_real(Job(REAL, PROMPTS[0], 1, frames, 2, model), tmp_path / "v.mp4")
    assert real.borders == borders
    latents = 1 + (frames - 1) // FRAMES_PER_LATENT[model]
    report = {
        "model": {"trained_frames": {"demo": 16, "demo-wan": 13}[model]},
        "num_frames": frames,
        "num_latent_frames": latents,
        "joins": [],
        "settings": dict.fromkeys(TOLD),
        "seconds": {},
        "peak_memory_bytes": [],
    }
    assert made_of(report, model).borders == borders
    assert made_of({**report, "joins": [latents - 1]}, model).borders == (
        (frames - 1,) if model == "demo" else (frames - 4,)
    )


def test_words_of_a_job_become_keywords() -> None:
    words = ("--local-frames", "4", "--without", "conv,norm", "--local-bias", "1.5")
    job = Job("clip-parallel", PROMPTS[0], 1, 24, options=words)
    assert options_of(job) == {"local_frames": 4, "without": "conv,norm", "local_bias": 1.5}


def test_videos_made_together_are_those_made_one_by_one(tmp_path: Path) -> None:
    words = ("--num-inference-steps", "2", "--local-frames", "3", "--without", "norm")
    jobs = [Job("clip-parallel", text, 1, 13, 2, "demo-wan", words[:4]) for text in PROMPTS]
    make_together(jobs, tmp_path / "together")
    alone = [generate(job, tmp_path / f"{number}.mp4") for number, job in enumerate(jobs)]
    for number, (job, made) in enumerate(zip(jobs, alone, strict=True)):
        path = video_file(tmp_path / "together", job)
        assert path.read_bytes() == (tmp_path / f"{number}.mp4").read_bytes()
        told = json.loads(path.with_suffix(".made").read_text())
        assert tuple(told["borders"]) == made.borders and told["settings"] == made.settings
        assert bool(told["peak_memory_bytes"]) == (number == 0), "later ones reuse memory"
        assert told["settings"]["local_frames"] == 3
    first, second = (video_file(tmp_path / "together", job).read_bytes() for job in jobs)
    assert first != second
    with pytest.raises(EvaluationError, match="norm"):
        generate(Job("clip-parallel", PROMPTS[0], 1, 13, 2, "demo-wan", words), tmp_path / "x.mp4")
    refused = [replace(job, options=words) for job in jobs]
    make_together(refused, tmp_path / "together")
    assert not any(video_file(tmp_path / "together", job).exists() for job in refused)


@pytest.mark.slow
def test_methods_of_the_command_are_made_and_measured(tmp_path: Path, backends: Backends) -> None:
    options = ("--num-inference-steps", "6")
    methods = ("clip-parallel", "independent", "no-such-method")
    jobs = [Job(method, PROMPTS[0], 1, 24, 2, options=options) for method in methods]
    said: list[str] = []
    rows = run_jobs(jobs, tmp_path, dict.fromkeys(methods, generate), backends, said.append)
    assert [row["job"]["method"] for row in rows] == ["clip-parallel", "independent"]
    assert all(row["made"]["borders"] == [12] for row in rows)
    assert all(row["made"]["seconds"]["denoise"] > 0 for row in rows)
    assert rows[0]["made"]["settings"]["global_frames"] == 16, "the default"
    ratios = [row["measures"]["seam_ratio_motion"]["value"] for row in rows]
    assert ratios[1] > 1.5 * ratios[0], "clips made each by itself have a seam"
    assert any("no-such-method" in line for line in said)


def test_some_columns_are_made_and_the_page_shows_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quality", "--small", "--out", str(tmp_path), "--columns"]
    monkeypatch.setattr("sys.argv", [*words, REAL])
    main()
    assert {job.method for job in read_rows(tmp_path)} == {REAL}
    assert "results.md: 2 of 6 videos" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, "sideways"])
    with pytest.raises(SystemExit):
        main()
    assert "invalid choice: 'sideways'" in capsys.readouterr().err
