"""pyproject.toml names every imported package: one that only another package requires may go with its next version."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import distribution
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_THE_USER = {"openai"}
"""Libraries that are instrumented where a program has them."""


def imported() -> set[str]:
    """Top-level packages of other projects that a module of the source imports anywhere."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        found |= set(
            re.findall(r"^ *(?:from|import) (\w+)[\w.]*(?: import .*| as \w+)?$", path.read_text(), re.MULTILINE)
        )
    return found - sys.stdlib_module_names - {"nodespan"} - OF_THE_USER


def provided(project: str) -> set[str]:
    """Top-level packages that an installed project has."""
    return {file.parts[0].removesuffix(".py") for file in distribution(project).files or ()}


def test_each_imported_package_is_a_declared_dependency() -> None:
    extras = PROJECT["optional-dependencies"].values()
    names = [Requirement(text).name for text in chain(PROJECT["dependencies"], *extras)]
    packages = imported()
    assert {"opentelemetry", "langgraph", "httpx", "uvicorn", "wrapt"} <= packages
    assert sorted(packages - set(chain.from_iterable(map(provided, names)))) == []
