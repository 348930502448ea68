"""docs/names.md is what `make docs` writes."""

from __future__ import annotations

import runpy
from pathlib import Path

from nodespan.semconv import NAMES
from nodespan.types import NodeMetadata

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_of_names_is_up_to_date() -> None:
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert (DOCS / "names.md").read_text() == generate["names_md"](), "Type: make docs"


def test_the_page_has_every_name_and_every_key_of_the_metadata() -> None:
    page = (DOCS / "names.md").read_text()
    assert [name for name in [*NAMES, *NodeMetadata.model_fields] if f"`{name}`" not in page] == []
