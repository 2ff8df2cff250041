"""The mesh of clips and branches."""

from __future__ import annotations

import pytest

from video_infinity.errors import ConfigError
from video_infinity.mesh import Mesh, mesh_of


def test_every_rank_has_one_place_on_each_axis() -> None:
    mesh = Mesh(cfg=2, clip=3)
    places = [(mesh.clip_of(rank), mesh.branch_of(rank)) for rank in range(mesh.size)]
    assert sorted(places) == [(clip, branch) for clip in range(3) for branch in range(2)]
    assert mesh.clip_groups == [[0, 2, 4], [1, 3, 5]]
    assert mesh.branch_groups == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("text", "ranks", "expected"),
    [
        (None, 5, Mesh(1, 5)),
        ("cfg=2,clip=4", 8, Mesh(2, 4)),
        ("clip=4, cfg=2", 8, Mesh(2, 4)),
        ("cfg=2", 6, Mesh(2, 3)),
        ("clip=3", 6, Mesh(2, 3)),
        ("clip=3", 3, Mesh(1, 3)),
    ],
)
def test_an_axis_that_is_not_named_takes_the_rest(
    text: str | None, ranks: int, expected: Mesh
) -> None:
    assert mesh_of(text, ranks) == expected


@pytest.mark.parametrize(
    ("text", "ranks", "said"),
    [
        ("cfg=2,clip=4", 6, "does not fit 6 ranks"),
        ("cfg=2", 5, "does not fit 5 ranks"),
        ("clip=2", 6, "does not fit 6 ranks"),
        ("cfg=3", 6, "two branches"),
        ("cfg=0", 2, "no mesh"),
        ("time=2", 2, "no mesh"),
        ("cfg=2,cfg=2", 4, "no mesh"),
        ("2x4", 8, "no mesh"),
        ("", 8, "no mesh"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(text: str, ranks: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        mesh_of(text, ranks)
