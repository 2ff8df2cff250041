"""Rules of the layout that import-linter cannot state: who may touch torch.distributed."""

from __future__ import annotations

import ast
from importlib.resources import files
from pathlib import Path

PACKAGE = Path(str(files("video_infinity")))
MAY_USE_DISTRIBUTED = {"comm", "launch"}


def imported(file: Path) -> set[str]:
    """Every module that a file names in an import, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def users_of(prefix: str) -> set[str]:
    """First part of the path, inside the package, of every file that imports from `prefix`."""
    return {
        file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for file in PACKAGE.rglob("*.py")
        if any(name == prefix or name.startswith(f"{prefix}.") for name in imported(file))
    }


def test_torch_distributed_stays_in_comm_and_launch() -> None:
    assert users_of("torch.distributed") == MAY_USE_DISTRIBUTED


def test_diffusers_stays_in_adapters() -> None:
    assert users_of("diffusers") == {"adapters"}


def test_no_forward_is_overwritten_and_no_pickle_is_read() -> None:
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        assigned = [
            target.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Attribute)
        ]
        assert "forward" not in assigned, file
        called = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert not called & {"torch.load", "pickle.load", "pickle.loads", "np.load"}, file
