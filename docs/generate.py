"""Writes docs/names.md, docs/cli.md and docs/warnings.md from the code. Type: make docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from nodespan.cli._app import app
from nodespan.semconv import MIRROR_KEYS, NAMES, SCHEMA_URL, Kind, Name
from nodespan.spans.log import CODE_FIELD, CODES
from nodespan.types import STATE_ONLY_KEYS, NodeMetadata

NAMES_MD = Path(__file__).with_name("names.md")
CLI_MD = Path(__file__).with_name("cli.md")
WARNINGS_MD = Path(__file__).with_name("warnings.md")
CLI_INTRODUCTION = """\
# The command line

<!-- Written by `make docs` from src/nodespan/cli/_app.py. -->

`nodespan COMMAND`. With `--json` a command prints one JSON document and nothing else. On a terminal there are colours,
and long work says how far it is. Exit codes: 0 done, 1 it could not be done (the reason is said), 2 wrong usage. Which
store and which endpoint: [configuration.md](configuration.md).
"""
INTRODUCTION = f"""\
# Names

<!-- Written by `make docs` from src/nodespan/semconv.py and src/nodespan/types.py. -->

Every name that nodespan writes, and every key of a node's metadata. The dialect is that of <{SCHEMA_URL}>.
*Source* says where a standard name comes from and, for one of nodespan's own, why no standard name fits.
"""
WARNINGS_INTRODUCTION = f"""\
# Warnings

<!-- Written by `make docs` from src/nodespan/spans/log.py. -->

nodespan logs to the logger `nodespan`. Each warning carries a stable code: `{CODE_FIELD}` on the log record and on the
exported OpenTelemetry log record. Filter and alert on the code; the wording of a message may change.
"""
# Kind, heading, introduction
SECTIONS: tuple[tuple[Kind, str, str], ...] = (
    ("operation", "Spans", "A span is called `{operation} {subject}`, or by the operation alone."),
    ("attribute", "Attributes", "On spans, events and links."),
    ("event", "Events", "On spans."),
    (
        "metric",
        "Metrics",
        "Over OTLP. *Prometheus* is the name as it arrives there; a histogram's has `_bucket`, `_sum` or `_count` "
        "after it, and labels have `_` for `.`. A label without a value is absent. Buckets are upper bounds.\n\n"
        "No label is an id. Names that a program chooses freely are labels (models, nodes, a run's `run_name`): choose "
        "few. Beyond 2000 sets of labels the SDK counts what comes in one more point, `otel.metric.overflow`.\n\n"
        "Values are recorded in the context of the span that has the same fact, so exemplars lead there. Runs count "
        "whether or not their span is sampled. Errors and cancelled runs count like others, by `nodespan.status`.",
    ),
)
# A column without any value in a section is left out of it.
COLUMNS: tuple[tuple[str, Callable[[Name], str]], ...] = (
    ("name", lambda name: f"`{name.name}`"),
    ("Prometheus", lambda name: f"`{name.prometheus_name}`" if name.kind == "metric" else ""),
    ("type", lambda name: name.type if name.kind in {"attribute", "metric"} else ""),
    ("unit", lambda name: f"`{name.unit}`" if name.unit else ""),
    ("meaning", lambda name: name.meaning),
    ("labels", lambda name: ", ".join(f"`{label}`" for label in name.labels)),
    ("buckets", lambda name: ", ".join(f"{bound:g}" for bound in name.buckets)),
    ("stability", lambda name: name.stability),
    ("source", lambda name: name.source),
)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def section(kind: Kind, title: str, introduction: str) -> str:
    """The names of one kind."""
    names = [name for name in NAMES.values() if name.kind == kind]
    columns = [(head, cell) for head, cell in COLUMNS if any(cell(name) for name in names)]
    rows = ([cell(name) for _, cell in columns] for name in names)
    return f"\n## {title}\n\n{introduction}\n\n{table([head for head, _ in columns], rows)}\n"


def json_type(schema: dict[str, Any]) -> str:
    """The JSON types that a property may have; one without a value is absent, so null is not among them."""
    choices = schema.get("anyOf", [schema])
    return " or ".join(choice["type"] for choice in choices if choice["type"] != "null")


def node_metadata() -> str:
    """The keys of an entry in ``WorkflowState.node_metadata``."""
    schema = NodeMetadata.model_json_schema()
    rows: list[list[str]] = []
    # In the order of the mirror, which begins with what every entry has.
    for key in sorted(NodeMetadata.model_fields, key=[*MIRROR_KEYS, *sorted(STATE_ONLY_KEYS)].index):
        attribute = MIRROR_KEYS.get(key)
        meaning = NAMES[attribute].meaning if attribute else "Of the node's span; absent without a real provider."
        always = "yes" if key in schema["required"] else ""
        where = f"`{attribute}`" if attribute else "the span itself"
        rows.append([f"`{key}`", json_type(schema["properties"][key]), always, where, meaning])
    heads = ("key", "type", "always there", "span attribute", "meaning")
    introduction = "An entry of `WorkflowState.node_metadata`, and the same facts on the node's span, key by key."
    return f"\n## Node metadata\n\n{introduction}\n\n{table(heads, rows)}\n"


def names_md() -> str:
    """The whole page."""
    return INTRODUCTION + node_metadata() + "".join(section(*each) for each in SECTIONS)


def command_section(name: str, command: Any) -> str:
    """A command: how it is called, what it does, and each of its options."""
    rows: list[list[str]] = []
    usage = f"nodespan {name}"
    for given in command.params:
        if given.name == "help":
            continue
        if given.param_type_name == "argument":
            usage += f" {given.metavar}"
            shown = given.metavar
        else:
            shown = ", ".join(given.opts) + ("" if given.is_flag else f" {given.metavar}")
        default = "" if given.default in (None, False) else f"`{given.default}`"
        rows.append([f"`{shown}`", default, given.help])
    return f"\n## `{usage}`\n\n{command.help}\n\n{table(('option', 'default', 'meaning'), rows)}\n"


def cli_md() -> str:
    """The page of commands."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    return CLI_INTRODUCTION + "".join(command_section(name, command) for name, command in commands.items())


def warnings_md() -> str:
    """The page of warning codes."""
    return (
        WARNINGS_INTRODUCTION + "\n" + table(("code", "meaning"), ([f"`{c}`", CODES[c]] for c in sorted(CODES))) + "\n"
    )


if __name__ == "__main__":
    WARNINGS_MD.write_text(warnings_md())
    NAMES_MD.write_text(names_md())
    CLI_MD.write_text(cli_md())
