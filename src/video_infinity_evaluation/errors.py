"""The error of this package: what was asked cannot be measured. Exit code 2."""

from __future__ import annotations

from video_infinity.errors import UserError


class EvaluationError(UserError):
    """A video cannot be read, or a measure cannot be had; the message says what to change."""
