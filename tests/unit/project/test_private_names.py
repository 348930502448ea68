"""docs/private-names.md lists every private name of another library that the source uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from langgraph._internal import _constants

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "nodespan"
PAGE = (ROOT / "docs" / "private-names.md").read_text()
PUBLIC = {"_replace", "__interrupt__"}
"""A documented method of ``namedtuple``, and LangGraph's documented key of streamed interrupts."""
LANGGRAPH = {text for text in vars(_constants).values() if isinstance(text, str) and text.startswith("__")}
"""LangGraph's private keys and channels. Those of its public constants, such as ``__start__``, are not among them."""
OWN_TEXTS = (
    "_s",
    "_at",
    "_OTHER",
    "_api_token",
    "_ENDPOINT",
    "_EXPORTER",
    "_INSECURE",
    "_COUNT_LIMIT",
    "_CREDENTIAL_PROVIDER",
    "_BF16",
    "_VBMI",
    "_VNNI",
)
"""Texts that look like a name: endings of variables, options of a compiler."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined(tree: ast.AST) -> Iterator[str]:
    """Names of a module's own variables, functions, classes, arguments, attributes and slots."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                yield from (each.value for each in ast.walk(value) if isinstance(each, ast.Constant))
            case _:
                pass


def used(tree: ast.AST) -> Iterator[str]:
    """Private names that a module uses of others: imported, as an attribute, or as a text for ``getattr``."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if not module.startswith("nodespan"):
                yield from (part for part in module.split(".") if is_private(part))
                yield from (alias.name for alias in names if is_private(alias.name))
            case ast.Attribute(attr=name) if is_private(name):
                yield name
            case ast.Constant(value=str(text)) if text.isidentifier() and (
                is_private(text) or "pregel" in text or text in LANGGRAPH
            ):
                yield text
            case _:
                pass


@pytest.fixture(scope="module")
def foreign() -> set[str]:
    """Private names of other libraries in the source."""
    trees = [ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")]
    ours = {name for tree in trees for name in defined(tree)}
    return {name for tree in trees for name in used(tree)} - ours - PUBLIC - set(OWN_TEXTS)


def test_private_names_are_found_in_the_source(foreign: set[str]) -> None:
    assert {"_should_retry_on", "__pregel_push", "__previous__", "_convert_input"} <= foreign


def test_the_page_lists_every_private_name_of_other_libraries(foreign: set[str]) -> None:
    assert sorted(name for name in foreign if name not in PAGE) == []


def test_the_page_lists_no_unused_name() -> None:
    source = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    listed = {
        name
        for row in PAGE.splitlines()
        if row.startswith(("| `", "| key", "| tag"))
        for part in row.split("|")[1].split("`")[1::2]
        for name in [part.rsplit(".", 1)[-1]]
    }
    assert sorted(name for name in listed if name not in source) == []
