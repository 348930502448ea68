"""constraints.txt pins all direct and transitive dependencies of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named_in_pyproject() -> set[str]:
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    texts = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for group in [*project["optional-dependencies"].values(), *groups.values()]:
        texts += group
    return {normal(Requirement(text).name) for text in texts}


def needed(names: Iterable[str]) -> set[str]:
    """All packages installed because of these names, without those that only builds require."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        current = waiting.pop()
        if normal(current.name) in found:
            continue
        found.add(normal(current.name))
        extras = ["", *current.extras]
        try:
            below = [Requirement(text) for text in requires(current.name) or []]
        except PackageNotFoundError:
            continue
        waiting += [
            one for one in below if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)
        ]
    return found


def test_each_line_is_an_exact_version_and_nothing_else() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[a-z0-9][a-z0-9-]*==[A-Za-z0-9.]+", line)] == []
    assert sorted(LINES, key=lambda line: line.partition("==")[0]) == LINES


def test_every_dependency_and_its_dependencies_are_pinned() -> None:
    pinned = {line.partition("==")[0] for line in LINES}
    groups = PYPROJECT["dependency-groups"]
    without_dependencies = {normal(Requirement(text).name) for text in [*groups["model"], *groups["scale"]]}
    assert named_in_pyproject() - pinned == set()
    assert needed(named_in_pyproject() - without_dependencies) - pinned == set()
