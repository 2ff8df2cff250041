"""Which error is told when several ranks fail, and what spawned ranks are given."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from video_infinity.errors import ExchangeError, RankFailedError, RunError, UserError
from video_infinity.failures import (
    FAILURES_DIR,
    first_failure,
    is_spawned,
    note_told,
    report_error,
)
from video_infinity.launch import _environment, _rank_environment


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path


def fail(rank: int, error: Exception, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Be a spawned rank that ends with an error."""
    monkeypatch.setenv(FAILURES_DIR, str(scratch))
    monkeypatch.setenv("RANK", str(rank))
    try:
        raise error
    except Exception as raised:
        return report_error(raised)


def test_a_ranks_own_error_goes_before_a_missed_message(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(0, ExchangeError("nobody answers"), scratch, monkeypatch) == 1
    assert fail(1, ArithmeticError("bad sum"), scratch, monkeypatch) == 1
    error = first_failure(scratch, {0: 1, 1: 1})
    assert isinstance(error, RankFailedError)
    assert (error.rank, str(error)) == (1, "rank 1 failed: ArithmeticError: bad sum")
    assert error.traceback.startswith("Traceback")
    assert capsys.readouterr().err == "", "the launcher tells, and not every rank"


def test_the_first_of_two_goes_before_the_second(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(2, ArithmeticError("first"), scratch, monkeypatch)
    fail(0, ArithmeticError("second"), scratch, monkeypatch)
    assert "rank 2 failed" in str(first_failure(scratch, {0: 1, 2: 1}))


def test_an_error_of_ours_needs_no_traceback(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fail(0, RunError("disk full; make room"), scratch, monkeypatch) == 1
    error = first_failure(scratch, {0: 1})
    assert isinstance(error, RankFailedError) and error.traceback == ""
    assert str(error) == "rank 0 failed: disk full; make room"


def test_a_rank_that_ends_while_it_notes_its_error_does_not_hide_anothers(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher ends all ranks once one has failed, in whatever they are doing."""
    fail(1, UserError("no such thing; name another"), scratch, monkeypatch)

    def cut_off(path: Path, text: str, **_: object) -> int:
        path.write_bytes(text.encode()[:9])
        raise OSError("ended here")

    monkeypatch.setattr(Path, "write_text", cut_off)
    fail(0, UserError("no such thing; name another"), scratch, monkeypatch)
    note_told()
    assert type(first_failure(scratch, {0: 2, 1: 2})) is UserError


def test_the_users_mistake_stays_one(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fail(1, UserError("no such thing; name another"), scratch, monkeypatch) == 2
    assert type(first_failure(scratch, {1: 2})) is UserError


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (-signal.SIGKILL, "killed by SIGKILL; if nobody did that, the machine ran out of memory"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (130, "a signal told it to end"),
        (3, "ended with exit code 3"),
    ],
)
def test_a_rank_that_died_without_a_word(
    code: int, says: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(0, ExchangeError("connection closed by peer"), scratch, monkeypatch)
    assert str(first_failure(scratch, {0: 1, 1: code})) == f"rank 1 failed: {says}"


def test_one_that_was_told_to_end_because_another_failed_is_not_blamed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(0, ExchangeError("nobody answers"), scratch, monkeypatch)
    monkeypatch.setenv("RANK", "1")
    note_told()
    assert str(first_failure(scratch, {0: 1, 1: 130})) == "rank 0 failed: nobody answers"


def test_one_that_somebody_told_to_end_is_blamed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAILURES_DIR, str(scratch))
    monkeypatch.setenv("RANK", "1")
    note_told()
    fail(0, ExchangeError("connection closed by peer"), scratch, monkeypatch)
    error = first_failure(scratch, {0: 1, 1: 130})
    assert str(error) == "rank 1 failed: a signal told it to end"


def test_a_launcher_that_is_gone_is_not_missed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fail(0, ArithmeticError(), scratch / "gone", monkeypatch) == 1


def test_threads_are_shared_out_unless_the_user_did(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _rank_environment(3, scratch)["OMP_NUM_THREADS"] == "2"
    assert _rank_environment(9, scratch)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "OMP_NUM_THREADS" not in _rank_environment(3, scratch)


def test_the_launcher_is_not_taken_for_a_rank(scratch: Path) -> None:
    before = dict(os.environ)
    with _environment(_rank_environment(2, scratch)):
        assert is_spawned()
    assert dict(os.environ) == before and not is_spawned()
