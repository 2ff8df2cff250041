"""The Python API: alone, around a diffusers pipeline, and as a script under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.end_to_end import program
from tests.tiny import tiny_pipe
from video_infinity import VideoInfinityPipeline
from video_infinity.errors import ConfigError, OutputError, RunError, TimelineError

EXAMPLE = Path(__file__).parents[2] / "examples" / "generate.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
NUM_FRAMES = 7
OPTIONS: dict[str, Any] = {"num_frames": NUM_FRAMES, "num_inference_steps": 2, "local_frames": 2}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> VideoInfinityPipeline:
    return VideoInfinityPipeline.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def video(pipe: VideoInfinityPipeline) -> Iterator[Any]:
    with pipe("a b", **OPTIONS) as video:
        yield video


def read_pngs(directory: Path) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(directory.iterdir())])


def test_a_video_gives_its_frames_as_often_as_wished(video: Any) -> None:
    first, second = list(video), list(video)
    assert len(video) == len(first) == NUM_FRAMES
    assert all(frame.shape == (8, 8, 3) and frame.dtype == np.uint8 for frame in first)
    assert np.array_equal(first, second)


def test_two_loops_do_not_disturb_each_other(video: Any) -> None:
    for a, b in zip(video, video, strict=True):
        assert np.array_equal(a, b)


def test_a_video_is_saved_as_its_suffix_says(video: Any, tmp_path: Path) -> None:
    video.save(tmp_path / "frames")
    assert np.array_equal(read_pngs(tmp_path / "frames"), list(video))
    video.save(tmp_path / "v.gif", fps=5)
    with pytest.raises(OutputError, match="exists"):
        video.save(tmp_path / "v.gif")
    video.save(str(tmp_path / "v.gif"), overwrite=True)


def test_report_names_no_file_that_was_not_written(video: Any) -> None:
    assert video.report["output"] == [] and video.report["settings"]["output"] is None
    assert video.report["num_frames"] == NUM_FRAMES


def test_a_loaded_diffusers_pipeline_gives_the_same_video(video: Any) -> None:
    around = VideoInfinityPipeline.from_pipe(tiny_pipe())
    assert np.array_equal(list(around("a b", **OPTIONS)), list(video))


def test_none_is_the_default(pipe: VideoInfinityPipeline, video: Any) -> None:
    options = OPTIONS | {"negative_prompt": None, "height": None, "seed": None, "method": None}
    assert np.array_equal(list(pipe("a b", **options)), list(video))


def test_latents_are_saved_and_not_overwritten_unasked(
    pipe: VideoInfinityPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "z.safetensors"
    assert pipe("a b", **OPTIONS, save_latents=file).report["output"] == [str(file)]
    assert load_file(file)["latents"].shape == (NUM_FRAMES, 4, 4, 4)
    with pytest.raises(OutputError, match="exists"):
        pipe("a b", **OPTIONS, save_latents=file)
    pipe("a b", **OPTIONS, save_latents=str(file), overwrite=True)


def test_mistakes_say_what_to_change(pipe: VideoInfinityPipeline) -> None:
    with pytest.raises(TypeError, match=r"num_frame; did you mean num_frames\?"):
        pipe("a b", num_frame=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown option nproc_per_node"):
        pipe("a b", nproc_per_node=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="num-frames 0 is out of range"):
        pipe("a b", num_frames=0)
    with pytest.raises(TimelineError, match="prompt '' is empty"):
        pipe()
    with pytest.raises(ConfigError, match="device 'tpu' is unknown"):
        VideoInfinityPipeline.from_pretrained(device="tpu")


def test_observer_hears_of_the_run(pipe: VideoInfinityPipeline) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    pipe("a b", **OPTIONS, observer=lambda event, **data: heard.append((event, data)))
    assert [data["step"] for event, data in heard if event == "step"] == [1, 2]
    assert ("frames", {"frames": NUM_FRAMES, "of": NUM_FRAMES}) in heard


def test_a_closed_video_says_so(pipe: VideoInfinityPipeline) -> None:
    with pipe("a b", **OPTIONS) as video:
        pass
    with pytest.raises(RunError, match="closed"):
        list(video)


def test_the_example_by_python_and_under_torchrun(tiny_model: Path, tmp_path: Path) -> None:
    """The same script gives the same video."""
    words = [EXAMPLE, "--model", tiny_model, "--num-frames", "7", "--steps", "2", "--output"]
    for output, before in (("one", [sys.executable]), ("two", [*TORCHRUN, "--nproc-per-node=2"])):
        finished = program.run(*words, output, cwd=tmp_path, program=before)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("frame 0: (8, 8, 3)") == 1
    one, two = read_pngs(tmp_path / "one"), read_pngs(tmp_path / "two")
    assert len(one) == 7 and np.abs(one.astype(int) - two).max() <= 1


LEAVES_THE_WORLD = """
import atexit, os, sys
from pathlib import Path

def tell():
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    Path("threads-" + os.environ["RANK"]).write_text(" ".join(threads))

atexit.register(tell)  # before ours, and so called after it
from video_infinity import VideoInfinityPipeline

pipe = VideoInfinityPipeline.from_pretrained(sys.argv[1])
pipe("a b", num_frames=4, num_inference_steps=1)
assert any("gloo" in file.read_text() for file in Path("/proc/self/task").glob("*/comm"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_script_that_ends_has_no_thread_of_its_world(tiny_model: Path, tmp_path: Path) -> None:
    """One that still let go of a tensor would abort the process: PyTorch takes the interpreter."""
    script = tmp_path / "ends.py"
    script.write_text(LEAVES_THE_WORLD)
    finished = program.run(
        script, tiny_model, cwd=tmp_path, program=[*TORCHRUN, "--nproc-per-node=2"]
    )
    assert finished.returncode == 0, finished.stderr
    for rank in (0, 1):
        threads = (tmp_path / f"threads-{rank}").read_text()
        assert "python" in threads and "gloo" not in threads


SLOW_TO_SAVE = """
import os, sys, time
from pathlib import Path
from video_infinity import VideoInfinityPipeline

pipe = VideoInfinityPipeline.from_pretrained(sys.argv[1], timeout=20)
video = pipe("a b", num_frames=4, num_inference_steps=1)
rank = os.environ["RANK"]
if rank == "0":
    deadline = time.monotonic() + 120
    while not Path("ended-1").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    print(len(list(video)), Path("ended-1").exists())
video.save("v.gif")
if rank == "1":
    import atexit
    atexit.register(Path("ended-1").touch)
"""


def test_rank_0_may_take_its_time_to_save(tiny_model: Path, tmp_path: Path) -> None:
    """The other ranks have left the script by then, and nothing fails for it."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW_TO_SAVE)
    finished = program.run(
        script, tiny_model, cwd=tmp_path, program=[*TORCHRUN, "--nproc-per-node=2"]
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["4", "True"]
    assert (tmp_path / "v.gif").exists()
