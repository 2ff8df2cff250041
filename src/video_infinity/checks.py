"""What an option's value may be, and the message when it is something else."""

from __future__ import annotations

from video_infinity.errors import ConfigError

SPELLINGS = {"timeout_s": "timeout", "compile_blocks": "compile"}
"""Fields whose flag and key are not their name."""


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
        raise ConfigError(f"{flag(name)} {value!r} is not {kind}; {remedy}")
    if not low <= value <= high:
        raise ConfigError(f"{flag(name)} {value!r} is out of range; {remedy}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{flag(name)} {value!r} is unknown; choose from {', '.join(choices)}")


def check_switch(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{flag(name)} {value!r} is no switch; give true or false")
