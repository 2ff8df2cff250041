"""A manifest that lacks an entry, or holds one of another kind, is refused by that entry's name."""

from __future__ import annotations

from typing import Any

import pytest

from video_infinity.errors import ResumeError
from video_infinity.manifest import check_manifest

WHOLE: dict[str, Any] = {
    "run": "a run",
    "request": {"timeline": [], "settings": {"num_frames": 3, "num_inference_steps": 2}},
    "versions": {},
    "model": {},
    "inputs": {},
    "layout": {"ranks": 1},
    "kept": False,
}


def test_one_of_ours_passes() -> None:
    check_manifest(WHOLE)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"run": 3}, "its run is no str"),
        ({"layout": []}, "its layout is no dict"),
        ({"layout": {}}, "its layout.ranks is no int"),
        ({"request": {"timeline": [], "settings": {}}}, "its request.settings.num_frames is no"),
        ({"kept": None}, "its kept is no bool"),
    ],
)
def test_others_do_not(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ResumeError, match=says):
        check_manifest(WHOLE | changed)
