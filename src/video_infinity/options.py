"""A request from what a person wrote: flags and a config file, both of them text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from video_infinity.checks import as_key
from video_infinity.config import DEFAULT_OUTPUT, HINTS, SPELLINGS, Request, check_options
from video_infinity.errors import ConfigError
from video_infinity.timeline import as_timeline
from video_infinity.yamlfile import read_yaml

SUBJECT = ("prompt", "timeline")
"""What the video shows: one of the two, from the flags or else from the config file."""


def read_request(options: Mapping[str, Any]) -> Request:
    """The request of a command line: flag before config file before default.

    options  flags with underscores for dashes, numbers as text, and `prompt` and `config`
    Raises UserError for what is unknown, contradictory or out of range.
    """
    given = dict(options)
    config = given.pop("config", None)
    from_file = read_config_file(Path(config)) if config is not None else {}
    if set(SUBJECT) & given.keys():
        from_file = {name: value for name, value in from_file.items() if name not in SUBJECT}
    merged = {"output": DEFAULT_OUTPUT} | from_file | _parsed(given)
    timeline = as_timeline(merged.pop("prompt", None), merged.pop("timeline", None))
    return Request.from_options(timeline, merged)


def read_resume_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `resume` by their fields' names. Raises ConfigError for what is out of range."""
    parsed = _parsed(options)
    check_options(parsed)
    return parsed


def read_config_file(path: Path) -> dict[str, Any]:
    """Options from a YAML file, named as the flags, with dashes or underscores.

    Files that it names are found from the working directory, as those of flags are.
    Returns options by their fields' names; `prompt` and `timeline` may be among them.
    Raises ConfigError, with the file's name, if it cannot be read, or holds a key that is no
    option or a value that is out of range.
    """
    loaded = read_yaml(path, "--config", ConfigError)
    if loaded is None:
        return {}
    if not isinstance(loaded, Mapping):
        raise ConfigError(
            f"--config {path} holds a {type(loaded).__name__}; write one `option: value` a line"
        )
    named = {as_key(key).replace("-", "_"): value for key, value in loaded.items()}
    options = {key: value for key, value in _parsed(named).items() if value is not None}
    try:
        if len(named) < len(loaded):
            raise ConfigError("an option is there twice, with dashes and underscores; drop one")
        check_options({k: v for k, v in options.items() if k not in SUBJECT})
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from error
    return options


def _parsed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their fields' names; numbers that were text as numbers, `auto` ranks as None.

    Text that is no number stays, for the field's own check to refuse.
    """
    names = {spelling: name for name, spelling in SPELLINGS.items()}
    named = {names.get(key, key): value for key, value in options.items()}
    return {name: _as_number(name, value) for name, value in named.items()}


def _as_number(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name == "nproc_per_node" and value == "auto":
        return None
    hint = HINTS.get(name)
    for number in (int, float):
        if hint is number or number in get_args(hint):
            with suppress(ValueError):
                return number(value)
    return value
