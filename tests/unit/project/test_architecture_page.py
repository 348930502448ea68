"""docs/architecture.md lists every package, and the import rules are those of the linter."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \|", PAGE, re.MULTILINE)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_the_page_lists_the_rooms_that_exist_and_no_other() -> None:
    source = ROOT / "src" / "nodespan"
    packages = {path.name for path in source.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in source.glob("*.py") if not path.name.startswith("_")}
    assert sorted(PACKAGES) == sorted(packages | modules)


def test_the_page_lists_the_rooms_in_the_order_of_the_layers() -> None:
    layers = [name.strip() for line in CONTRACTS[0]["layers"] for name in line.split("|")]
    assert [name for name in layers if not name.startswith("_")] == PACKAGES


def test_the_page_lists_the_imports_that_the_linter_forbids() -> None:
    forbidden = {
        (source.removeprefix("nodespan."), target.removeprefix("nodespan."))
        for contract in CONTRACTS
        if contract["type"] == "forbidden"
        for source in contract["source_modules"]
        for target in contract["forbidden_modules"]
    }
    rows = dict(re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE))
    missing = {(s, t) for s, t in forbidden if t not in {"langgraph", "langchain_core"} and f"`{t}`" not in rows[s]}
    assert missing == set()
