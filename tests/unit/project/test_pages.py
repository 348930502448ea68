"""Generated pages are what `make docs` writes, and every command, option and variable is documented."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import typer

from nodespan.cli._app import app
from nodespan.delivery.processor import QUEUE_MAX, WRITE_INTERVAL_S
from nodespan.semconv import NAMES
from nodespan.store import StoreLimits
from nodespan.types import NodeMetadata

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def test_the_generated_pages_are_up_to_date() -> None:
    generate = runpy.run_path(str(DOCS / "generate.py"))
    for page in ("names", "cli", "warnings", "read-model"):
        assert (DOCS / f"{page}.md").read_text() == generate[f"{page.replace('-', '_')}_md"](), "Type: make docs"


def test_the_page_has_every_name_and_every_key_of_the_metadata() -> None:
    page = (DOCS / "names.md").read_text()
    assert [name for name in [*NAMES, *NodeMetadata.model_fields] if f"`{name}`" not in page] == []


def test_every_command_and_option_is_documented_with_its_values() -> None:
    page = (DOCS / "cli.md").read_text()
    commands: dict[str, Any] = typer.main.get_command(app).commands
    assert [name for name, command in commands.items() if f"`nodespan {name}" not in page or not command.help] == []
    for name, command in commands.items():
        _, section = re.split(f"## `nodespan {name}(?=[` ])", page, maxsplit=1)
        section = section.split("\n## ", 1)[0]
        for given in command.params:
            if given.name != "help":
                shown = given.metavar if given.param_type_name == "argument" else given.opts[0]
                assert f"`{shown}" in section or f", {shown}" in section, (name, given.name)
                assert given.help, (name, given.name)
                assert given.metavar or given.is_flag, (name, given.name)


def test_every_variable_that_the_code_names_is_documented() -> None:
    page = (DOCS / "configuration.md").read_text().replace("_SIGNAL_", "_TRACES_")
    code = "\n".join(file.read_text() for file in sorted((ROOT / "src").rglob("*.py")))
    named = set(re.findall(r"\b(?:OTEL|NODESPAN)_[A-Z0-9_]*[A-Z0-9]\b", code))
    # Names that the code builds: f"OTEL_{signal.upper()}_EXPORTER" and the like.
    named |= {f"OTEL_{signal}_EXPORTER" for signal in ("TRACES", "METRICS", "LOGS")}
    named |= {f"OTEL_EXPORTER_OTLP_TRACES_{what}" for what in ("ENDPOINT", "PROTOCOL", "HEADERS")}
    assert len(named) > 15
    assert sorted(name for name in named if f"`{name}`" not in page) == []


def test_the_documented_defaults_are_those_of_the_code() -> None:
    page = (DOCS / "configuration.md").read_text()
    defaults = {
        "NODESPAN_STORE_MAX_BYTES": StoreLimits().max_bytes,
        "NODESPAN_STORE_MAX_AGE_S": round(StoreLimits().max_age_s),
        "OTEL_BSP_SCHEDULE_DELAY": round(WRITE_INTERVAL_S * 1000),
        "OTEL_BSP_MAX_QUEUE_SIZE": QUEUE_MAX,
    }
    assert [name for name, default in defaults.items() if f"| `{name}` | {default} |" not in page] == []
