"""Generated pages are what `make docs` writes, and every command, option and variable is documented."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import typer

from nodespan.cli._app import app
from nodespan.delivery import outbox_sender, processor, running_spans, sender_lock
from nodespan.delivery.processor import QUEUE_MAX, WRITE_INTERVAL_S
from nodespan.engine import prefix
from nodespan.engine.openai_compatible import endpoints, wire
from nodespan.instrumentation.langgraph import _labels, _topology, _writes
from nodespan.otlp.encode import MAX_BATCH_BYTES
from nodespan.otlp.from_json import DEPTH_MAX
from nodespan.runner import chunk_buffer
from nodespan.semconv import NAMES
from nodespan.spans import content, fingerprint
from nodespan.store import StoreLimits, outbox, running
from nodespan.types import NodeMetadata
from nodespan.viewer import query, receiver

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


KIB = 1024
MIB = 1024 * KIB
LIMITS = {
    "architecture.md": [f"above {chunk_buffer.UNREAD_LIMIT_BYTES // MIB} MiB of unread text"],
    "delivery.md": [
        f"In memory at most {outbox._MEMORY_MAX_BYTES // MIB} MiB are kept",
        f"the store accepted no spans, and {QUEUE_MAX:,} waited",
        f"after pauses of up to {processor._RETRY_MAX_S:.0f} s",
        f"the time in `Retry-After`, up to {processor._RETRY_AFTER_MAX_S / 60:.0f} minutes",
        f"{processor._SLICE} spans are encoded at once",
        f"batches of up to {processor._BATCH_SPANS}",
        f"Requests hold up to {outbox_sender._REQUEST_SPANS} spans or {MAX_BATCH_BYTES // MIB} MiB",
        f"without progress for {'a minute' if sender_lock.STUCK_AFTER_S == 60 else sender_lock.STUCK_AFTER_S}",
    ],
    "instrumentation.md": [
        f"From {prefix.LEAST_REPEATED_TOKENS} such tokens on",
        f"at most {_topology.MAX_BYTES // KIB} KiB; `is_truncated`",
        f"Texts of more than {_labels.MAX_BYTES} bytes",
        f"at most {_labels.MAX_LABELS} tags and {_labels.MAX_LABELS} keys",
    ],
    "pipelines.md": [f"Above {chunk_buffer.UNREAD_LIMIT_BYTES // MIB} MiB of unread text"],
    "privacy.md": [
        f"An attribute has at most {content.DEFAULT_MAX_BYTES // KIB} KiB",
        f"{content.LEAST_MAX_BYTES} is the minimum",
        f"more than {fingerprint.MAX_BYTES // KIB} KiB or {fingerprint.MAX_ELEMENTS:,} elements",
        f"most {_writes.MAX_WRITES} writes",
    ],
    "read-model.md": [
        f"longer than {running_spans.AFTER_S * 1000:.0f} ms",
        f"longer than {running_spans._ATTRIBUTE_MAX:,}",
        f"At most {running_spans.MAX_TRACKED:,} open spans",
        f"kept for {running_spans._DEAD_KEPT_S / 86400:.0f} days",
        f"within the last {running.SILENT_AFTER_S:.0f} s",
    ],
    "servers.md": [f"cut at {wire._SHOWN} characters", f"used last for {endpoints._DOWN_S:.0f} s"],
    "viewer-data.md": [
        f"`limit` (1 to {query.LIMIT_MAX}, {query.LIMIT_DEFAULT} if not given)",
        f"a body of {receiver.BODY_MAX_BYTES // MIB} MiB, {receiver.UNPACKED_MAX_BYTES // MIB} MiB unpacked",
        f"{receiver.REQUESTS_MAX} requests at once and {receiver.RATE_BYTES_PER_S // MIB} MiB/s",
        f"values of {DEPTH_MAX} levels",
    ],
}


@pytest.mark.parametrize("page", LIMITS)
def test_the_documented_limits_are_those_of_the_code(page: str) -> None:
    text = " ".join((DOCS / page).read_text().split())
    assert [limit for limit in LIMITS[page] if limit not in text] == []
