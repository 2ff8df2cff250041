"""`video-infinity evaluate`: any video in, table, JSON and picture out; mistakes in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.evaluation.conftest import real_frames, real_video
from video_infinity import cli
from video_infinity.output import open_sink
from video_infinity_evaluation import Backends, EvaluationError, score
from video_infinity_evaluation.footage import most_frames, open_footage

PROMPT = "a red seven moving left on a navy background"


def write(path: Path, frames: Any, fps: float = 8) -> Path:
    height, width = frames.shape[1:3]
    with open_sink(path, fps=fps, width=width, height=height, overwrite=True) as sink:
        sink.write(frames)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short video of ours, at a path with a space."""
    frames = real_frames("carphone_pristine", 12, 64)
    return write(tmp_path_factory.mktemp("a clip") / "v.mp4", frames[:, :48])


def test_a_video_as_table_json_and_picture(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, picture = tmp_path / "s.json", tmp_path / "s.png"
    words = ["evaluate", str(clip), "--clip-frames", "4", "--json", str(told)]
    assert cli.run([*words, "--plot", str(picture)]) == 0
    shown = capsys.readouterr().out
    for name in ("subject_consistency", "seam_ratio_pixels", "loop_score", "dynamic_degree"):
        assert name in shown
    assert "EfficientNet-Lite0*" in shown.replace("\n", " ") and "not with VBench's" in shown
    scores = json.loads(told.read_text())
    assert scores["num_frames"] == 12 and scores["borders"] == [4, 8] and scores["fps"] == 8
    assert 0.5 < scores["measures"]["temporal_flickering"]["value"] < 1
    assert "not comparable" in scores["measures"]["motion_smoothness"]["by"]
    with Image.open(picture) as image:
        assert image.width > 800
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    assert {path.name for path in tmp_path.iterdir()} == {"s.json", "s.png"}


def test_json_on_stdout_is_json_alone(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", str(clip), "--json", "-", "--prompt", PROMPT]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["prompt"] == PROMPT
    assert "64x64" in scores["measures"]["words of the world"]["note"], "this one is 64x48"


def test_the_same_video_gives_the_same_picture(clip: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / name for name in ("a.svg", "b.svg")]
    for picture in pictures:
        assert cli.run(["evaluate", str(clip), "--plot", str(picture), "--quiet"]) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_a_report_of_generate_says_where_clips_begin(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "r.json"
    timeline = [{"start": 0, "prompt": "a b", "transition": 0}]
    wan = {"num_frames": 9, "num_latent_frames": 3, "clips": [[0, 2], [2, 3]], "joins": []}
    report.write_text(json.dumps(wan | {"timeline": timeline}))
    assert cli.run(["evaluate", str(clip), "--run-report", str(report), "--json", "-"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["borders"] == [5], "latent 2 of Wan begins at pixel frame 5"
    assert scores["prompt"] == "a b"


def test_a_table_may_lie_beside_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "frames", real_frames("carphone_pristine", 5, 64)[:, :48])
    monkeypatch.chdir(tmp_path / "frames")
    assert cli.run(["evaluate", ".", "--json", "s.json", "--plot", "s.svg", "--quiet"]) == 0
    assert json.loads(Path("s.json").read_text())["num_frames"] == 5


@pytest.mark.parametrize("name", ["v.webm", "v.gif", "frames"])
def test_other_containers_and_directories_are_read(name: str, tmp_path: Path) -> None:
    frames = real_frames("carphone_pristine", 5, 64)[:, :48]
    read = list(open_footage(write(tmp_path / name, frames)))
    assert len(read) == 5
    difference = np.abs(np.stack(read).astype(int) - frames).mean()
    assert difference < (25 if name == "v.gif" else 6)
    assert name != "frames" or difference == 0


def test_colours_of_our_files_come_back(tmp_path: Path) -> None:
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    frames[:] = (230, 40, 40)
    read = np.stack(list(open_footage(write(tmp_path / "v.mp4", frames))))
    assert np.abs(read.astype(int) - frames).max() <= 3, "read as BT.601 it is off by 20"


def test_video_of_others_is_read() -> None:
    footage = open_footage(real_video("carphone_pristine"))
    assert footage.fps == pytest.approx(30000 / 1001)
    assert sum(1 for _ in footage) == 120


class Untouched:
    label = "none"

    def __call__(self, *_: Any) -> Any:
        pytest.fail("the pass began")


@pytest.mark.parametrize("name", ["v.mp4", "v.webm", "frames", None])
def test_a_border_outside_is_told_before_the_pass(name: str | None, tmp_path: Path) -> None:
    frames = real_frames("carphone_pristine", 5, 64)[:, :48]
    video = frames if name is None else write(tmp_path / name, frames)
    never = Backends(Untouched(), Untouched(), Untouched())
    with pytest.raises(EvaluationError, match="frame 5 of 5"):
        score(video, borders=[2, 5], backends=never)
    with pytest.raises(pytest.fail.Exception, match="the pass began"):
        score(video, borders=[2, 4], backends=never)


def test_frames_are_counted_where_the_header_tells_too_few(tmp_path: Path) -> None:
    frames = real_frames("carphone_pristine", 12, 64)[:, :48]
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe"}) as container:
        stream = container.add_stream("mpeg4", rate=8, options={"g": "4"})
        stream.width, stream.height = 64, 48
        for frame in (*map(av.VideoFrame.from_ndarray, frames), None):
            container.mux(stream.encode(frame))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 4, "its first fragment"
    assert most_frames(path) == sum(1 for _ in open_footage(path)) == 12


Case = tuple[Callable[[Path], list[str]], tuple[str, ...]]


def spoilt(name: str, data: bytes) -> Callable[[Path], list[str]]:
    def words(place: Path) -> list[str]:
        (place / name).write_bytes(data)
        return [name]

    return words


def cut(place: Path) -> list[str]:
    """A video whose second half is gone; .webm can be opened all the same."""
    video = write(place / "v.webm", real_frames("carphone_pristine", 12, 64)[:, :48])
    data = video.read_bytes()
    video.write_bytes(data[:300] + bytes(len(data) - 300))
    return ["v.webm"]


def over_its_input(place: Path) -> list[str]:
    (place / "v.mp4").write_text("mine")
    return ["v.mp4", "--json", "./v.mp4", "--overwrite"]


def among_its_pictures(place: Path) -> list[str]:
    write(place / "frames", real_frames("carphone_pristine", 5, 64)[:, :48])
    return ["frames", "--plot", "frames/plot.png"]


def an_environment_that_is_none(place: Path) -> list[str]:
    (place / "v.mp4").write_text("told before it is read")
    return ["v.mp4", "--vbench-env", "nowhere"]


def there(name: str) -> Callable[[Path], list[str]]:
    def words(place: Path) -> list[str]:
        (place / name).write_text("mine")
        return ["v.mp4", "--json", name]

    return words


CASES: dict[str, Case] = {
    "no file": (lambda _: ["nope.mp4"], ("'nope.mp4' cannot be read", "No such file")),
    "no name": (lambda _: [], ("FILE", "--help")),
    "text": (spoilt("v.mp4", b"no video"), ("v.mp4 is no video",)),
    "text that FFmpeg draws": (spoilt("v.txt", b"a line\n" * 60), ("v.txt is text and no video",)),
    "empty": (spoilt("v.mp4", b""), ("v.mp4 is no video",)),
    "null byte": (lambda _: ["a\0b"], ("'a\\x00b' cannot be read", "null byte")),
    "no picture in it": (lambda place: [str(place)], ("without PNGs",)),
    "cut off": (cut, ("v.webm",)),
    "unknown flag": (lambda _: ["v.mp4", "--wat"], ("--wat", "--help")),
    "borders in words": (lambda _: ["v.mp4", "--borders", "4,x"], ("--borders 'x'",)),
    "border 0": (lambda _: ["v.mp4", "--borders", "0"], ("--borders '0'", "from 1")),
    "clips of none": (lambda _: ["v.mp4", "--clip-frames", "0"], ("--clip-frames '0'",)),
    "two ways": (
        lambda _: ["v.mp4", "--borders", "4", "--clip-frames", "4"],
        ("--borders, --clip-frames and --run-report",),
    ),
    "rate in words": (lambda _: ["v.mp4", "--fps", "fast"], ("--fps 'fast'",)),
    "no rate": (lambda _: ["v.mp4", "--fps", "0"], ("--fps 0", "above 0")),
    "rate NaN": (lambda _: ["v.mp4", "--fps", "nan"], ("--fps nan", "above 0")),
    "no report": (lambda _: ["v.mp4", "--run-report", "r"], ("--run-report r", "No such file")),
    "report of something else": (
        lambda place: [*spoilt("r", b"[1]")(place), "--run-report", "r"],
        ("--run-report r is no report",),
    ),
    "picture of another kind": (lambda _: ["v.mp4", "--plot", "p.bmp"], ("p.bmp", ".png or .svg")),
    "json is there": (there("s.json"), ("--json s.json exists", "--overwrite")),
    "json over the video": (over_its_input, ("--json ./v.mp4 would change FILE v.mp4",)),
    "plot among the frames": (among_its_pictures, ("--plot frames/plot.png", "FILE frames")),
    "no environment": (an_environment_that_is_none, ("--vbench-env nowhere has no bin/python",)),
    "endless report": (
        lambda place: [
            *spoilt("r", b'{"num_frames": 1e999, "num_latent_frames": 1, "clips": []}')(place),
            *("--run-report", "r"),
        ],
        ("--run-report r is no report",),
    ),
    "one file for both": (
        lambda _: ["v.mp4", "--json", "a.png", "--plot", "a.png"],
        ("different files",),
    ),
    "no weights": (lambda _: ["v.mp4", "--weights", "w"], ("--weights w is no directory",)),
}


@pytest.mark.parametrize("name", CASES)
def test_mistake_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make, fragments = CASES[name]
    words = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli.run(["evaluate", *words]) == 2
    out, err = capfd.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("video-infinity: error: ") and not out
    for fragment in fragments:
        assert fragment in line
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_what_was_measured_is_there_where_vbench_fails(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'no module named vbench' >&2\nexit 1\n")
    python.chmod(0o755)
    words = ["--vbench-env", str(tmp_path / "env"), "--json", str(tmp_path / "s.json"), "--quiet"]
    assert cli.run(["evaluate", str(clip), *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "vbench failed: no module named vbench (our own measures are there)" in line
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["num_frames"] == 12 and "vbench:dynamic_degree" not in scores["measures"]


def test_a_picture_that_is_too_large_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "frames", real_frames("carphone_pristine", 5, 64)[:, :48])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 3)
    assert cli.run(["evaluate", str(tmp_path / "frames")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "is no PNG that can be read" in line and "decompression bomb" in line


@pytest.mark.parametrize("package", ["cv2", "skvideo"])
def test_without_the_extra_one_line_says_what_to_install(
    clip: Path, package: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.startswith("video_infinity_evaluation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.run(["evaluate", str(clip)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "pip install 'video-infinity[evaluate]'" in line


def test_without_the_package_one_line_says_what_to_install(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    assert cli.run(["evaluate", str(clip)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "pip install 'video-infinity[evaluate]'" in line


def test_help_lists_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    assert "evaluate" in capsys.readouterr().out
    assert cli.run(["evaluate", "--help"]) == 0
    assert "--vbench-env" in capsys.readouterr().out
