"""What people and broken disks may put into a file, and what may come of it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from video_infinity import cli
from video_infinity.errors import UserError
from video_infinity.failures import describe

LONGEST_MESSAGE = 1500
FEWER = settings(max_examples=max(20, settings.default.max_examples // 10))
"""For a call that takes a second."""

HOSTILE_YAML = (
    *("!!int ''", "!!float ''", "!!bool maybe", "!!timestamp soon", "!!binary '*'", "!!set {a, b}"),
    *("!!python/object/apply:os.system [touch owned]", "!!python/name:os.system", "!unknown x"),
    *("0x" + "f" * 5000, "9" * 5000, "1e400", ".nan", ".inf", "-.inf", "0b101", "0o17", "1_000"),
    *("190:20:30", "2020-99-99", "0001-01-01T00:00:00+23:00", "~", "", "''", "'\\0'", '"\\0"'),
    *('"\\ud800"', "&a [*a]", "*nowhere", "<<: 1", "{? [1]: 2}", "{[1]: 2}", "- - -", "yes", "on"),
    "[" * 3000 + "]" * 3000,
    "&a [&b [x,x,x,x,x,x,x,x,x],*b,*b,*b,*b,*b,*b,*b,*b]",
    "[&a [x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b,*b], "
    "&d [*c,*c,*c,*c,*c,*c,*c,*c], &e [*d,*d,*d,*d,*d,*d,*d,*d], &f [*e,*e,*e,*e,*e,*e,*e,*e], "
    "&g [*f,*f,*f,*f,*f,*f,*f,*f], &h [*g,*g,*g,*g,*g,*g,*g,*g], [*h,*h,*h,*h,*h,*h,*h,*h]]",
)
"""Values that a YAML library, or Python behind it, is known to stumble over."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**9, 10**30])
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "auto", "never", "cuda", "cfg=2", "a/b", "..", "\0", "\ud800", "a\nb"])
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
"""What JSON can hold."""


def fails_as_a_mistake(call: Callable[[], Any]) -> UserError | None:
    """What a call raised: a mistake of the user's, told in one line, or nothing at all."""
    try:
        call()
    except UserError as error:
        assert_one_line(describe(error))
        return error
    return None


def assert_one_line(text: str) -> None:
    assert len(text.split("\n")) == 1, text
    assert 0 < len(text) < LONGEST_MESSAGE, text[:LONGEST_MESSAGE]


def ends_well(call: Callable[[], Any]) -> bool:
    """Whether a call does its work, or is refused in one short line that is not empty.

    Any other exception than a mistake of the user's goes through.
    """
    error = fails_as_a_mistake(call)
    return error is None or 0 < len(describe(error)) < LONGEST_MESSAGE


def run(*words: str) -> int:
    """The command, in this process: done without a word, or one line that says what is wrong."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(words)
    lines = err.getvalue().splitlines()
    assert "Traceback" not in err.getvalue(), err.getvalue()
    assert code in (0, 2), (code, lines)
    if code:
        assert_one_line(lines[-1])
        assert lines[-1].startswith("video-infinity: error: "), lines
    return code


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """Plain data with one entry, at any depth, replaced, dropped or added."""
    if not isinstance(whole, dict | list) or not whole or draw(st.integers(0, 5)) == 0:
        return draw(PLAIN)
    keys = list(whole) if isinstance(whole, dict) else range(len(whole))
    key = draw(st.sampled_from(keys))
    copy: Any = dict(whole) if isinstance(whole, dict) else list(whole)
    what = draw(st.sampled_from(["inside", "inside", "drop", "add"]))
    if what == "inside":
        copy[key] = draw(changed(whole[key]))
    elif what == "drop":
        del copy[key]
    elif isinstance(copy, dict):
        copy[draw(st.text(max_size=8))] = draw(PLAIN)
    else:
        copy.append(draw(PLAIN))
    return copy


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with bits flipped, bytes put in, or a part lost."""
    how = draw(st.sampled_from(["flip", "cut", "insert", "replace"]))
    at = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([8, 400, len(data) - 1])))))
    if how == "cut":
        return data[:at]
    if how == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=9)) + data[at:]
    new = draw(st.binary(min_size=1, max_size=9))
    if how == "replace":
        return data[:at] + new + data[at + len(new) :]
    return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
