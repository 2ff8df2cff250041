"""How ranks stand in a mesh of two axes: clips of the timeline, branches of the guidance. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from video_infinity.checks import shown
from video_infinity.errors import ConfigError

AXES = ("cfg", "clip")


@dataclass(frozen=True)
class Mesh:
    """Ranks in rows of branches: rank = place on the clip axis * cfg + place on the cfg axis.

    cfg   ranks that share the branches of one clip's guidance: 1 or 2
    clip  clips of the timeline
    """

    cfg: int
    clip: int

    @property
    def size(self) -> int:
        return self.cfg * self.clip

    def clip_of(self, rank: int) -> int:
        """The place of a rank on the clip axis."""
        return rank // self.cfg

    def branch_of(self, rank: int) -> int:
        """The place of a rank on the cfg axis."""
        return rank % self.cfg

    @property
    def clip_groups(self) -> list[list[int]]:
        """Ranks that exchange context with each other: one of each clip, of the same branch."""
        return [list(range(branch, self.size, self.cfg)) for branch in range(self.cfg)]

    @property
    def branch_groups(self) -> list[list[int]]:
        """Ranks that hold the same clip."""
        return [list(range(first, first + self.cfg)) for first in range(0, self.size, self.cfg)]


def parse_axes(text: str) -> dict[str, int]:
    """The axes that `cfg=2,clip=4` names. Raises ConfigError for anything else."""
    axes = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*=\s*([1-9]\d{0,5})\s*", part)
        if match is None or match[1] not in AXES or match[1] in axes:
            raise ConfigError(
                f"--parallel {shown(text)} is no mesh; write cfg=1 or cfg=2, clip=N, or both "
                "with a comma between"
            )
        axes[match[1]] = int(match[2])
    if axes.get("cfg", 1) > 2:
        raise ConfigError(f"--parallel {shown(text)}: guidance has two branches; cfg is 1 or 2")
    return axes


def mesh_of(text: str | None, num_ranks: int) -> Mesh:
    """The mesh of that many ranks; an axis that is not named takes what the other leaves.

    Raises ConfigError if the ranks do not fill the mesh.
    """
    axes = parse_axes(text) if text is not None else {}
    cfg = axes.get("cfg", num_ranks // axes["clip"] if "clip" in axes else 1)
    mesh = Mesh(cfg, axes.get("clip", num_ranks // cfg))
    if mesh.size != num_ranks or mesh.cfg not in (1, 2):
        raise ConfigError(
            f"--parallel {text} does not fit {num_ranks} ranks: cfg (1 or 2) times clip must be "
            "the number of ranks; change one of them"
        )
    return mesh
