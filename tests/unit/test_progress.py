"""What a run says: a bar for people, lines for programs, or nothing."""

from __future__ import annotations

import io
import json

import pytest

from video_infinity.progress import Bar, default_observer, json_lines, silent, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with default_observer(is_main=True) as observer:
        assert isinstance(observer, Bar)
        observer("phase", name="denoise")
        observer("step", step=1, of=2, frames=10)
        observer("step", step=2, of=2, frames=10)
        observer("phase", name="decode")
        observer("frames", frames=10, of=10)
        observer("done", output=[], seconds={})
    shown = terminal.getvalue()
    assert "decode" in shown and "10/10" in shown and "frames/s" in shown


def test_otherwise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with default_observer(is_main=True) as observer:
        assert observer is silent
    monkeypatch.setattr("sys.stderr", Terminal())
    for choice in ({"is_main": False}, {"is_main": True, "quiet": True}):
        with default_observer(**choice) as observer:
            assert observer is silent
    with default_observer(json_lines, is_main=False) as observer:
        assert observer is json_lines


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with default_observer(is_main=True, quiet=True, log_json=True) as observer:
        observer("step", step=1, of=2)
    warn("mind the gap", log_json=True)
    step, warning = map(json.loads, capsys.readouterr().err.splitlines())
    assert (step["event"], step["of"]) == ("step", 2) and step["time"] > 0
    assert (warning["event"], warning["message"]) == ("warning", "mind the gap")


def test_a_warning_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    warn("mind the gap", log_json=False)
    assert capsys.readouterr().err == "video-infinity: warning: mind the gap\n"
