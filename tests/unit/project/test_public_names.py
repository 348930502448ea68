"""`import nodespan`: few names, each importable, and next to nothing to pay."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nodespan

INIT = Path(nodespan.__file__)
IMPORT_LIMIT_US = 20_000
TRIES = 7  # the best of several: the machine may be busy with something else


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)


def test_there_are_at_most_25_public_names() -> None:
    assert len(set(nodespan.__all__)) == len(nodespan.__all__) <= 25


@pytest.mark.parametrize("name", nodespan.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(nodespan, name) is not None


def test_type_checkers_lazy_imports_and_all_agree() -> None:
    tree = ast.parse(INIT.read_text())
    seen_by_checkers = {
        (alias.name, node.module)
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen_by_checkers == set(nodespan._HOMES.items())
    assert {*nodespan._HOMES, "__version__"} == set(nodespan.__all__) <= set(dir(nodespan))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'nodespan' has no attribute 'Composer'"):
        _ = nodespan.Composer


def test_import_nodespan_loads_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import nodespan; print(*set(sys.modules) - before)"
    loaded = {name.partition(".")[0] for name in python("-c", code).stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"nodespan"}


def test_import_nodespan_takes_at_most_20_ms() -> None:
    def cost_us() -> int:
        report = python("-X", "importtime", "-c", "import nodespan").stderr
        found = re.search(r"\|\s*(\d+) \| nodespan$", report, re.MULTILINE)
        assert found is not None, report
        return int(found[1])

    best = min(cost_us() for _ in range(TRIES))
    assert best <= IMPORT_LIMIT_US
