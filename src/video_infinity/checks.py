"""What an option's value may be, and the message when it is something else."""

from __future__ import annotations

import reprlib
from typing import Any

from video_infinity.errors import ConfigError

SPELLINGS = {"timeout_s": "timeout", "compile_blocks": "compile"}
"""Fields whose flag and key are not their name."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is. Five lines of YAML can make gigabytes."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a very large {type(value).__name__}"


def as_key(key: Any) -> str:
    """A key of a YAML file, which may be anything, as text."""
    return key if isinstance(key, str) else shown(key)


def is_utf8(text: str) -> bool:
    """Whether a tokenizer can take it: a shell or a JSON file may hand on half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def flag(name: str) -> str:
    """The command line's spelling of a field's name."""
    return "--" + SPELLINGS.get(name, name).replace("_", "-")


def check_range(
    name: str, value: float | None, low: float, high: float, *, whole: bool = True, also: str = ""
) -> None:
    """Raise ConfigError unless a value is None or a number in range.

    also  what else could be given, for the message
    """
    if value is None:
        return
    kind = "a whole number" if whole else "a number"
    remedy = f"give {kind} from {low} to {high}{also}"
    right_type = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right_type or value != value:
        raise ConfigError(f"{flag(name)} {shown(value)} is not {kind}; {remedy}")
    if not low <= value <= high:
        raise ConfigError(f"{flag(name)} {shown(value)} is out of range; {remedy}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = ", ".join(choices)
        raise ConfigError(f"{flag(name)} {shown(value)} is unknown; choose from {known}")


def check_switch(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{flag(name)} {shown(value)} is no switch; give true or false")
