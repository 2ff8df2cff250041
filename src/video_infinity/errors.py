"""Every error that the package raises on purpose.

    VideoInfinityError
    ├── UserError (also ValueError)   the request cannot be carried out: exit code 2
    │   ├── ConfigError               an option or a key of the config file
    │   ├── TimelineError             prompts over time
    │   ├── PlanError                 frames, clips, scopes
    │   ├── ModelError                the model is missing, broken or of another kind
    │   ├── LatentsError              a latents file
    │   ├── ResumeError               a run directory that cannot be gone on with
    │   └── OutputError               a destination that cannot be written
    └── RunError (also RuntimeError)  the request was fine and the run was not: exit code 1
        ├── ExchangeError             another rank did not answer in time, or is gone
        └── RankFailedError           a rank died; carries its own message and traceback

A message says what is wrong, shows the values, and names the remedy, in one line.
"""

from __future__ import annotations


class VideoInfinityError(Exception):
    """Root of the tree. Never raised itself."""


class UserError(VideoInfinityError, ValueError):
    """What a person asked for cannot be done; the message says what to change."""


class ConfigError(UserError):
    """An option is unknown, of the wrong type, or out of range."""


class TimelineError(UserError):
    """The prompt timeline is unsorted, has gaps, or leaves the video."""


class PlanError(UserError):
    """Frames, clips and scopes do not fit each other."""


class ModelError(UserError):
    """A model cannot be found, read, or driven by this engine."""


class LatentsError(UserError):
    """A latents file has the wrong shape, type or values."""


class ResumeError(UserError):
    """A run directory is none, is in use, or does not belong to this request or model."""


class OutputError(UserError):
    """A destination is missing, not writable, of an unknown kind, or already there."""


class RunError(VideoInfinityError, RuntimeError):
    """The request was valid and the run failed."""


class ExchangeError(RunError):
    """A message from another rank did not come: the deadline passed or the rank is gone."""


class RankFailedError(RunError):
    """A rank ended with an error of its own, which this one carries.

    rank        global rank
    traceback   that rank's traceback as text, or "" if it left none
    """

    def __init__(self, rank: int, message: str, traceback: str = "") -> None:
        super().__init__(f"rank {rank} failed: {message}")
        self.rank = rank
        self.traceback = traceback
