"""Frames become one file: the right picture, same bytes, whole or absent, bounded memory."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from video_infinity import output
from video_infinity.errors import OutputError, RunError
from video_infinity.output import (
    SUFFIXES,
    FrameSink,
    atomic_write_bytes,
    check_destination,
    check_new_file,
    open_sink,
    partial_path,
    remove_partial,
)

HEIGHT, WIDTH, NUM_FRAMES = 64, 96, 25
NAMES = [f"clip{suffix}" for suffix in SUFFIXES]
FILE_NAMES = [name for name in NAMES if "." in name]
SATURATED = [
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255),
    (230, 40, 40), (20, 25, 70), (180, 60, 220), (245, 245, 245), (0, 0, 0), (255, 255, 255),
]  # fmt: skip


def moving_picture(num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH):
    """Smooth colour waves, [F, height, width, 3] uint8."""
    t, y, x = np.ogrid[0:num_frames, 0:height, 0:width]
    waves = [
        np.sin((x + 2 * t) / 17 + 0 * y),
        np.cos((y - t) / 13 + 0 * x),
        np.sin((x + y + t) / 23),
    ]
    return (127 + 110 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def colour_fields(num_frames: int = 5):
    """Twelve flat fields of 32x24 pixels, the same in each frame."""
    grid_HWC = np.array(SATURATED, np.uint8).reshape(3, 4, 3)
    frame_HWC = grid_HWC.repeat(32, axis=0).repeat(24, axis=1)
    return np.repeat(frame_HWC[None], num_frames, axis=0)


def write_video(path: Path, frames_FHWC, *, fps: float = 8, overwrite: bool = False, **options):
    _, height, width, _ = frames_FHWC.shape
    with open_sink(
        path, fps=fps, width=width, height=height, overwrite=overwrite, **options
    ) as sink:
        sink.write(frames_FHWC)
    return path


def read_video(path: Path):
    """The decoded frames as RGB by the file's own colour tags, and what the header says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames_FHWC = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
        context = stream.codec_context
        return frames_FHWC, context, container.duration / av.time_base


def read_content(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def psnr_db(a, b) -> float:
    mean_square = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / max(mean_square, 1e-12)))


# --- the file holds the picture -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "codec", "pix_fmt", "min_psnr_db"),
    [
        ("clip.mp4", {}, "h264", "yuv420p", 37),
        ("CLIP.MP4", {"video_codec": "mpeg4"}, "mpeg4", "yuv420p", 35),
        ("clip.webm", {}, "vp9", "yuv420p", 35),
        ("clip.gif", {}, "gif", "bgra", 27),
        ("a:b %d.mp4", {}, "h264", "yuv420p", 37),
    ],
)
def test_video_decodes_to_the_given_frames(tmp_path, name, options, codec, pix_fmt, min_psnr_db):
    frames_FHWC = moving_picture()
    decoded_FHWC, context, duration_s = read_video(
        write_video(tmp_path / name, frames_FHWC, fps=8, **options)
    )
    assert (context.codec.name, context.pix_fmt) == (codec, pix_fmt)
    assert decoded_FHWC.shape == frames_FHWC.shape
    assert duration_s == pytest.approx(NUM_FRAMES / 8, abs=0.011)
    psnrs_db = [psnr_db(a, b) for a, b in zip(decoded_FHWC, frames_FHWC, strict=True)]
    assert min(psnrs_db) >= min_psnr_db
    assert psnr_db(decoded_FHWC[1:], frames_FHWC[:-1]) < min(psnrs_db)  # a frame late is seen
    assert names_in(tmp_path) == [name]


def test_png_directory_is_lossless(tmp_path):
    frames_FHWC = moving_picture(12, height=33, width=35)
    path = write_video(tmp_path / "frames", frames_FHWC)
    assert names_in(path) == [f"frame_{index:05d}.png" for index in range(12)]
    decoded = [np.asarray(Image.open(file)) for file in sorted(path.iterdir())]
    assert np.array_equal(np.stack(decoded), frames_FHWC)


@pytest.mark.parametrize("name", FILE_NAMES)
def test_saturated_colours_come_back(tmp_path, name):
    decoded_FHWC, _, _ = read_video(write_video(tmp_path / name, colour_fields()))
    middles = decoded_FHWC[2, 16::32, 12::24].reshape(-1, 3).astype(int)
    assert np.abs(middles - SATURATED).max() <= 4


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_colours_are_tagged_bt709(tmp_path, name):
    path = write_video(tmp_path / name, colour_fields())
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    tags = (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)
    assert tags == (1, 1, 1, 1)
    wrong_HWC = frame.reformat(format="rgb24", src_colorspace="ITU601").to_ndarray()
    assert np.abs(wrong_HWC[16::32, 12::24].reshape(-1, 3).astype(int) - SATURATED).max() > 20


def test_mp4_header_comes_before_the_data(tmp_path):
    data = write_video(tmp_path / "clip.mp4", moving_picture()).read_bytes()
    boxes, offset = [], 0
    while offset < len(data):
        boxes.append(data[offset + 4 : offset + 8])
        offset += int.from_bytes(data[offset : offset + 4], "big")
    assert boxes.index(b"moov") < boxes.index(b"mdat")


@pytest.mark.parametrize("name", FILE_NAMES)
@pytest.mark.parametrize("fps", [7, 23.976, 30000 / 1001])
def test_duration_does_not_drift_with_odd_fps(tmp_path, name, fps):
    num_frames = 20
    path = write_video(tmp_path / name, moving_picture(num_frames, 16, 16), fps=fps)
    is_gif = name.endswith(".gif")
    with av.open(str(path)) as container:
        duration_s = container.duration / av.time_base
        stream = container.streams.video[0]
        starts_s = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
        assert is_gif or stream.average_rate == pytest.approx(Fraction(fps), rel=1e-6)
    assert duration_s == pytest.approx(num_frames / fps, abs=0.0151 if is_gif else 0.001)
    assert starts_s == pytest.approx([i / fps for i in range(num_frames)], abs=0.0051)


def test_gif_loops_for_ever(tmp_path):
    with Image.open(write_video(tmp_path / "clip.gif", moving_picture(3))) as picture:
        assert (picture.n_frames, picture.info["loop"]) == (3, 0)


# --- the same bytes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_same_frames_give_the_same_bytes_in_any_pieces(tmp_path, name):
    frames_FHWC = moving_picture(12)
    contents = []
    for run, cuts in enumerate([[], [1, 2, 2, 7], list(range(12))]):
        path = tmp_path / str(run) / name
        path.parent.mkdir()
        with open_sink(path, fps=8, width=WIDTH, height=HEIGHT, overwrite=False) as sink:
            for piece_FHWC in np.split(frames_FHWC, cuts):
                sink.write(piece_FHWC)
        assert sink.num_frames == 12
        contents.append(read_content(path))
    assert all(content == contents[0] for content in contents)
    frames_FHWC[6] = 255
    assert read_content(write_video(tmp_path / name, frames_FHWC)) != contents[0]


def test_h264_bytes_do_not_depend_on_what_ran_before(tmp_path):
    """With MB-tree on, x264 on AVX-512 reads memory that it never wrote."""
    frames_FHWC, files = moving_picture(), set()
    for run in range(8):
        files.add(write_video(tmp_path / "clip.mp4", frames_FHWC, overwrite=True).read_bytes())
        noise_FHWC = np.random.default_rng(run).integers(0, 256, (5, 80, 128, 3), dtype=np.uint8)
        write_video(tmp_path / "other.mp4", noise_FHWC, overwrite=True)
    assert len(files) == 1


def test_array_layout_does_not_show(tmp_path):
    frames_FHWC = moving_picture(5)
    strided = np.asfortranarray(frames_FHWC)
    a, b = (write_video(tmp_path / f"{i}.mp4", f) for i, f in enumerate([frames_FHWC, strided]))
    assert a.read_bytes() == b.read_bytes()


# --- whole or absent ------------------------------------------------------------------------


def write_and_fail(path: Path, frames_FHWC, error: BaseException, *, overwrite: bool) -> None:
    with open_sink(path, fps=8, width=WIDTH, height=HEIGHT, overwrite=overwrite) as sink:
        assert partial_path(path).exists()
        sink.write(frames_FHWC)
        raise error


@pytest.mark.parametrize(
    ("error", "num_written"), [(ValueError(), 8), (KeyboardInterrupt(), 8), (ValueError(), 0)]
)
@pytest.mark.parametrize("name", NAMES)
def test_exception_leaves_nothing(tmp_path, name, num_written, error):
    num_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(type(error)):
        write_and_fail(tmp_path / name, moving_picture(8)[:num_written], error, overwrite=False)
    assert names_in(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == num_open


@pytest.mark.parametrize("name", NAMES)
def test_old_video_stays_until_the_new_one_is_whole(tmp_path, name):
    path = write_video(tmp_path / name, moving_picture(4))
    old = read_content(path)
    with pytest.raises(KeyError):
        write_and_fail(path, moving_picture(8), KeyError(), overwrite=True)
    assert read_content(path) == old
    with open_sink(path, fps=8, width=WIDTH, height=HEIGHT, overwrite=True) as sink:
        sink.write(moving_picture(2)[::-1])
        assert read_content(path) == old
    assert names_in(tmp_path) == [name]
    assert read_content(path) != old
    assert path.is_file() or len(names_in(path)) == 2


@pytest.mark.parametrize("name", NAMES)
def test_old_video_survives_a_failing_rename(tmp_path, monkeypatch, name):
    path = write_video(tmp_path / name, moving_picture(4))
    old = read_content(path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RunError, match=os.strerror(errno.EIO)):
        write_video(path, moving_picture(2), overwrite=True)
    assert read_content(path) == old
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_destination_that_appears_meanwhile_is_not_overwritten(tmp_path, name):
    path = tmp_path / name
    foreign = path if path.suffix else path / "thesis.txt"
    sink = open_sink(path, fps=8, width=WIDTH, height=HEIGHT, overwrite=False)
    sink.__enter__()
    sink.write(moving_picture(2))
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"add --overwrite|none of our frames"):
        sink.__exit__(None, None, None)
    assert foreign.read_bytes() == b"mine"
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_no_frames_is_an_error(tmp_path, name):
    with pytest.raises(RunError, match="no frame came"):
        write_video(tmp_path / name, moving_picture(1)[:0])
    assert names_in(tmp_path) == []


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file grow further, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", NAMES)
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, name):
    frames_FHWC = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3), dtype=np.uint8)
    with files_of_at_most(8_000), pytest.raises(RunError) as caught:
        write_video(tmp_path / name, frames_FHWC)
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path / name} could not be written: {os.strerror(errno.EFBIG)};"
    )
    assert message.endswith("run again")
    assert "\n" not in message
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_full_disk_while_finishing_leaves_nothing(tmp_path, name):
    """Small files meet the limit only when the container is closed."""
    with files_of_at_most(100), pytest.raises(RunError, match=os.strerror(errno.EFBIG)):
        write_video(tmp_path / name, moving_picture(2))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_vanished_directory_is_one_line(tmp_path, name):
    folder = tmp_path / "out"
    folder.mkdir()
    sink = open_sink(folder / name, fps=8, width=WIDTH, height=HEIGHT, overwrite=False)
    sink.__enter__()
    sink.write(moving_picture(2))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="could not be written: No such file"):
        finish_with(sink, moving_picture(2))
    assert not folder.exists()


def finish_with(sink: FrameSink, frames_FHWC) -> None:
    sink.write(frames_FHWC)
    sink.__exit__(None, None, None)


def test_second_writer_of_the_same_path_is_refused(tmp_path):
    path = tmp_path / "clip.mp4"
    with open_sink(path, fps=8, width=WIDTH, height=HEIGHT, overwrite=False) as sink:
        sink.write(moving_picture(2))
        with pytest.raises(OutputError, match="another run"):
            write_video(path, moving_picture(2))
        remove_partial(path)  # as the launcher of the refused run does
        sink.write(moving_picture(2))
    assert read_video(path)[0].shape[0] == 4


def leave_partial(path: Path) -> None:
    """What a killed run leaves: more bytes, or more frames, than the next run will write."""
    partial = partial_path(path)
    stale = partial if path.suffix else partial / "frame_99999.png"
    stale.parent.mkdir(exist_ok=True)
    stale.write_bytes(b"x" * 100_000)


@pytest.mark.parametrize("name", NAMES)
def test_remove_partial(tmp_path, name):
    leave_partial(tmp_path / name)
    remove_partial(tmp_path / name)
    assert names_in(tmp_path) == []
    remove_partial(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_leftovers_of_a_killed_run_do_not_get_into_the_next(tmp_path, name):
    (tmp_path / "other").mkdir()
    leave_partial(tmp_path / name)
    path = write_video(tmp_path / name, moving_picture(3))
    assert read_content(path) == read_content(
        write_video(tmp_path / "other" / name, moving_picture(3))
    )
    assert names_in(tmp_path) == sorted([name, "other"])


def test_killed_between_two_renames_old_frames_are_put_back(tmp_path):
    path = write_video(tmp_path / "frames", moving_picture(3))
    old = read_content(path)
    path.rename(tmp_path / ".frames.part.old")
    partial_path(path).mkdir()
    remove_partial(path)
    assert read_content(path) == old
    assert names_in(tmp_path) == ["frames"]


# --- bounded memory -------------------------------------------------------------------------


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated_bytes() -> int:
    """What the process holds from malloc, FFmpeg's and numpy's buffers included (glibc)."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


@pytest.mark.parametrize(
    ("name", "num_warm", "num_frames"),
    [("clip.mp4", 100, 400), ("clip.webm", 100, 400), ("clip.gif", 10, 40), ("clip", 10, 60)],
)
def test_memory_does_not_grow_with_the_video(tmp_path, name, num_warm, num_frames):
    frames_FHWC = moving_picture(30, 128, 128)
    with open_sink(tmp_path / name, fps=24, width=128, height=128, overwrite=False) as sink:
        for index in range(num_frames):
            if index == num_warm:
                before_bytes = allocated_bytes()
            sink.write(frames_FHWC[index % 30, None].copy())
        grown_bytes = allocated_bytes() - before_bytes
    assert grown_bytes < 6 * frames_FHWC[0].nbytes


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((2, HEIGHT, WIDTH, 3), np.int8),
        np.zeros((2, WIDTH, HEIGHT, 3), np.uint8),
        np.zeros((2, HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((2, 3, HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda frames: f"{frames.dtype}-{frames.shape}",
)
def test_other_frames_are_refused(tmp_path, frames):
    with (
        pytest.raises(OutputError, match=r"give uint8 \[F, 64, 96, 3\]"),
        open_sink(
            tmp_path / "clip.mp4", fps=8, width=WIDTH, height=HEIGHT, overwrite=False
        ) as sink,
    ):
        sink.write(frames)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip.mp4", {"width": 95}, "95x64 is odd.*.gif or a directory of PNGs"),
        ("clip.webm", {"height": 63}, "96x63 is odd"),
        ("clip.gif", {"height": 0}, "96x0 pixels are empty"),
        ("clip.mp4", {"fps": float("nan")}, "fps=nan.*use 0.01 to 1000"),
        ("clip.mp4", {"fps": float("inf")}, "fps=inf"),
        ("clip", {"fps": 0}, "fps=0 "),
        ("clip.mp4", {"fps": -8}, "fps=-8"),
        ("clip.gif", {"fps": 60}, "fps=60.*use 0.01 to 50"),
        ("clip.mp4", {"video_codec": "libvpx-vp9"}, "libvpx-vp9 does not.*use libx264, mpeg4"),
        ("clip.gif", {"video_codec": "libx264"}, "libx264 does not go into .*; use gif"),
        ("clip", {"video_codec": "libx264"}, "libx264 does not go into .*; use png"),
        ("clip.avi", {}, "suffix .avi is unknown; use .mp4, .webm, .gif, or none"),
    ],
)
def test_what_cannot_be_is_refused_before_the_disk_is_touched(tmp_path, name, options, message):
    settings = {"fps": 8, "width": WIDTH, "height": HEIGHT, "overwrite": False} | options
    with pytest.raises(OutputError, match=message):
        open_sink(tmp_path / name, **settings)
    assert names_in(tmp_path) == []


def test_codec_that_this_pyav_lacks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "SUFFIXES", {".mp4": ("libnone",)})
    monkeypatch.setattr(output, "_CODEC_OPTIONS", {"libnone": {}})
    with pytest.raises(OutputError, match="this PyAV has no libnone"):
        open_sink(tmp_path / "a.mp4", fps=8, width=WIDTH, height=HEIGHT, overwrite=False)


@pytest.mark.parametrize("name", ["clip.gif", "clip"])
def test_odd_sizes_where_they_fit(tmp_path, name):
    write_video(tmp_path / name, moving_picture(2, 15, 17))
    assert names_in(tmp_path) == [name]


def test_a_sink_is_used_once_and_inside_with(tmp_path):
    sink = open_sink(tmp_path / "a.mp4", fps=8, width=WIDTH, height=HEIGHT, overwrite=False)
    assert isinstance(sink, FrameSink)
    with pytest.raises(RunError, match="open a new sink"):
        sink.write(moving_picture(1))
    with sink:
        sink.write(moving_picture(1))
    with pytest.raises(RunError, match="open a new sink"):
        sink.write(moving_picture(1))
    assert names_in(tmp_path) == ["a.mp4"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the table below names."""
    (tmp_path / "old.mp4").write_bytes(b"old")
    (tmp_path / "plain").write_bytes(b"a file")
    (tmp_path / "dir.mp4").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "frame_00000.png").write_bytes(b"png")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "frame_00000.png").write_bytes(b"png")
    (tmp_path / "mixed" / "notes.txt").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("frames", target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.mp4")
    return tmp_path


FINE = None


@pytest.mark.parametrize(
    ("name", "refusal", "refusal_with_overwrite"),
    [
        ("new.mp4", FINE, FINE),
        ("new.GIF", FINE, FINE),
        ("new", FINE, FINE),
        ("empty", FINE, FINE),
        ("old.mp4", "exists; add --overwrite", FINE),
        ("frames", "holds 1 frames; add --overwrite", FINE),
        ("mixed", "notes.txt", "notes.txt"),
        ("plain", "a file or link is there", "a file or link is there"),
        ("link", "a file or link is there", "a file or link is there"),
        ("dir.mp4", "is a directory; name a file in it", "is a directory"),
        ("pipe.mp4", "a device or a pipe", "a device or a pipe"),
        ("missing/new.mp4", "missing does not exist; create it", "does not exist"),
        ("missing/new", "missing does not exist; create it", "does not exist"),
        ("plain/new.mp4", "plain is not a directory", "is not a directory"),
        ("new.avi", "suffix .avi is unknown; use .mp4", "suffix .avi is unknown"),
        ("v1.5", "suffix .5 is unknown", "suffix .5 is unknown"),
        (".mp4", "has no file name", "has no file name"),
        ("..", "has no file name", "has no file name"),
        ("/", "has no file name", "has no file name"),
        ("x" * 250 + ".mp4", "File name too long; name another", "File name too long"),
        ("nul\0.mp4", "null byte", "null byte"),
        ("/proc/new.mp4", "/proc/new.mp4.*name another place", "/proc/new.mp4"),
        ("/sys/new", "/sys/new.*name another place", "/sys/new"),
    ],
)
def test_check_destination(folder, name, refusal, refusal_with_overwrite):
    before = sorted(folder.rglob("*"))
    for overwrite, message in ((False, refusal), (True, refusal_with_overwrite)):
        if message is FINE:
            check_destination(folder / name, overwrite=overwrite)
        else:
            with pytest.raises(OutputError, match=message) as caught:
                check_destination(folder / name, overwrite=overwrite)
            assert "--output" in str(caught.value)
            assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_unwritable_parent_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="Permission denied"):
        check_destination(tmp_path / "clip.mp4", overwrite=False)


def test_read_only_mount_is_refused_though_access_says_yes(tmp_path, monkeypatch):
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(OutputError, match="Read-only file system"):
        check_destination(tmp_path / "clip.mp4", overwrite=False)


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("report.json", FINE),
        ("old.mp4", "--report .*exists; add --overwrite"),
        ("empty", "--report .*is a directory"),
        ("missing/report.json", "--report .*does not exist"),
    ],
)
def test_check_new_file_names_the_flag(folder, name, refusal):
    if refusal is FINE:
        check_new_file(folder / name, overwrite=False, what="--report")
    else:
        with pytest.raises(OutputError, match=refusal):
            check_new_file(folder / name, overwrite=False, what="--report")
    if name == "old.mp4":
        check_new_file(folder / name, overwrite=True, what="--report")


# --- side files -----------------------------------------------------------------------------


def test_atomic_write_bytes(tmp_path):
    path = tmp_path / "report.json"
    atomic_write_bytes(path, b"one")
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    with files_of_at_most(10), pytest.raises(RunError, match=r"report\.json could not be written"):
        atomic_write_bytes(path, b"x" * 100)
    assert path.read_bytes() == b"two"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    with pytest.raises(RunError, match="Is a directory"):
        atomic_write_bytes(tmp_path / "folder", b"x")
    assert names_in(tmp_path) == ["folder", "report.json"]
    assert names_in(tmp_path / "folder") == ["kept"]
