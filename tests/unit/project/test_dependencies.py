"""pyproject.toml names every imported package: one that only another package requires may go with its next version."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_THE_USER = {"openai"}
"""Libraries that are instrumented where a program has them."""


def imported() -> set[str]:
    """Top-level packages of other projects that a module of the source imports anywhere."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module), level=0):
                    found.add(module.partition(".")[0])
                case _:
                    pass
    return found - sys.stdlib_module_names - {"nodespan"} - OF_THE_USER


def test_each_imported_package_is_a_declared_dependency() -> None:
    texts = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    distributions = packages_distributions()
    packages = imported()
    assert {"opentelemetry", "langgraph", "httpx", "uvicorn"} <= packages
    undeclared = {
        package: distributions.get(package)
        for package in packages
        if not declared & {canonicalize_name(name) for name in distributions.get(package, [package])}
    }
    assert undeclared == {}
