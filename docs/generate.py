"""Writes docs/names.md, cli.md, warnings.md and read-model.md from the code. Type: make docs."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nodespan.cli._app import app
from nodespan.semconv import MIRROR_KEYS, NAMES, SCHEMA_URL
from nodespan.spans.log import CODE_FIELD, CODES
from nodespan.store import records
from nodespan.types import STATE_ONLY_KEYS, NodeMetadata

if TYPE_CHECKING:
    from nodespan._name import Kind, Name

NAMES_MD = Path(__file__).with_name("names.md")
CLI_MD = Path(__file__).with_name("cli.md")
WARNINGS_MD = Path(__file__).with_name("warnings.md")
READ_MODEL_MD = Path(__file__).with_name("read-model.md")
CLI_INTRODUCTION = """\
# The command line

<!-- Written by `make docs` from src/nodespan/cli/_app.py. -->

`nodespan COMMAND`. With `--json` a command prints one JSON document and nothing else; with `--follow` too, one document
per line. On a terminal, output is coloured and long operations show their progress. Exit codes: 0 success, 1 failure
(the reason is printed), 2 invalid usage, 130 interrupted. [configuration.md](configuration.md) describes the choice of
store and endpoint.
"""
READ_MODEL_INTRODUCTION = """\
# The read model

<!-- Written by `make docs` from src/nodespan/store/records.py. -->

Commands, viewer and diff read runs through `nodespan.store.StoreReader` alone, and `nodespan traces --json` and
`nodespan trace --json` print its records.

```python
from nodespan.store import StoreReader, TraceFilter, open_store

with StoreReader(open_store()) as reader:
    cursor = reader.cursor()
    for trace in reader.find(TraceFilter(is_error=True), limit=10):
        print(trace["trace_id"], trace["name"], len(reader.get(trace["trace_id"])["spans"]))
    changes = reader.follow(cursor, wait_s=0.1)
    print(len(changes["spans"]), changes["cursor"] == cursor)
```

- `find(filter, limit)`: the newest traces that match, newest first; `before` in the filter gives the next page.
- `get(trace_id)`: one trace with its spans, by id or a unique prefix of it.
- `cursor()` and `follow(cursor, filter, wait_s)`: the changes since a cursor. A call that finds no change costs some
  microseconds, so polling every 50 ms is cheap.
- `join_edges(get(...)["spans"])`, of `nodespan.store`: the taken edges of a trace, each with the span ids of the
  executions that it led to.
- `status()`: how the store is read, and the number of spans in the index.

**Files.** The store is `nodespan.db`, the outbox. Beside it is `nodespan.index.db`, the search index, which readers
fill, newest batches first; it may be deleted at any time. A reader opens the outbox read-only and never holds its
write lock, so a search never delays a program. A missing store is read as an empty one.

**Copies.** `nodespan export --store FILE` writes a clean copy while programs write to the store; name it in
`NODESPAN_STORE` to read it. A file in a folder without write permission is read as a copy without writers
(`immutable=1`), with a temporary index. If there is a `-wal` file beside it, its spans are missing, and the warning
`store.copy_with_log` is logged.

## Running spans

A span that is open for longer than 80 ms (`NODESPAN_RUNNING_AFTER_MS`) has a row in the store until its end is stored:
ids, parent, name, start, the attributes that it has by then (without texts and lists longer than 1,024), its process,
and its phase, which is written at most once a second. `find`, `get` and `follow` return it like an ended span, with
another `state`. Shorter spans have no row. At most 10,000 open spans of a process have a row; `untracked` in
`status()` counts the others. Open spans are never sent over OTLP.

Each process with open spans writes a heartbeat every second and holds the lock of a file in `nodespan.running` beside
the store. At its end the kernel releases the lock: its open spans are `lost` at once, with the time of the last
heartbeat and the last phase ("lost at 12:03:11 while prefilling 62 % of 1310 tokens"). While it is stopped, they are
`silent`. Rows of ended processes are kept for 7 days. A span that is dropped without an end, and one that is open at
`shutdown()`, leaves no row.

`nodespan traces --running` lists the traces with open or lost spans, `nodespan traces --follow` prints each change, and
`nodespan trace --follow` shows one while it runs. With `NODESPAN_STORE=memory` other processes cannot see open spans.

Code that waits or works inside a span can publish its phase: `nodespan.spans.phases.publish(span, source)`, where
`source.phase()` returns a `Phase`. Only the writer's thread calls it, about once a second.

## Records

Records are plain dictionaries that can be dumped as JSON:

- Ids are lower-case hex. `parent_span_id` is an empty string for a root span.
- `*_ns` is Unix time in nanoseconds, an integer, which JavaScript rounds to about 256 ns. `*_s` is in seconds.
- Attribute values are as in OTLP's JSON: NaN and the infinities are the strings `"NaN"`, `"Infinity"`, `"-Infinity"`;
  bytes are base64 text.
- A key that does not apply is `null` or an empty list, never absent.
"""
INTRODUCTION = f"""\
# Names

<!-- Written by `make docs` from src/nodespan/semconv.py and src/nodespan/types.py. -->

Every name that nodespan writes, and every key of a node's metadata. The dialect is <{SCHEMA_URL}>.
*Source* is the origin of a standard name; for a name of nodespan's own, the reason why no standard name fits.
"""
WARNINGS_INTRODUCTION = f"""\
# Warnings

<!-- Written by `make docs` from src/nodespan/spans/log.py. -->

nodespan logs to the logger `nodespan`. Each warning has a stable code: `{CODE_FIELD}` on the log record and on the
exported OpenTelemetry log record. Filter and alert on the code; the wording of a message may change.
"""
# Kind, heading, introduction
SECTIONS: tuple[tuple[Kind, str, str], ...] = (
    ("operation", "Spans", "A span's name is `{operation} {subject}`, or only the operation."),
    ("attribute", "Attributes", "On spans, events and links."),
    ("event", "Events", "On spans."),
    (
        "metric",
        "Metrics",
        "Over OTLP. *Prometheus* is the name in Prometheus; histograms have the suffixes `_bucket`, `_sum`, `_count`; "
        "labels have `_` for `.`. A label without a value is absent. Buckets are upper bounds.\n\n"
        "No label is an id. Names that a program chooses freely are labels (models, nodes, a run's `run_name`): choose "
        "few. Beyond 2000 sets of labels the SDK adds further values to one point, `otel.metric.overflow`.\n\n"
        "Values are recorded in the context of the span with the same data, to which exemplars refer. Runs count "
        "whether or not their span is sampled. Failed and cancelled runs count as well, by `nodespan.status`.",
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
        meaning = NAMES[attribute].meaning if attribute else "Of the node's span; absent without a tracer provider."
        always = "yes" if key in schema["required"] else ""
        where = f"`{attribute}`" if attribute else "the span itself"
        rows.append([f"`{key}`", json_type(schema["properties"][key]), always, where, meaning])
    heads = ("key", "type", "required", "span attribute", "meaning")
    introduction = "The keys of an entry in `WorkflowState.node_metadata`, and the span attribute with the same value."
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


def record_section(record: type) -> str:
    """A record: its meaning and its fields."""
    text = inspect.getdoc(record) or ""
    summary, _, fields = text.partition("\nAttributes:\n")
    meanings = {
        name: " ".join(meaning.split())
        for name, meaning in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", fields, re.MULTILINE)
    }
    rows: list[list[str]] = []
    for name, kind in record.__annotations__.items():
        shown = str(getattr(kind, "__forward_arg__", kind))
        rows.append([f"`{name}`", f"`{shown}`", meanings.get(name, "").replace("``", "`")])
    heads = ("field", "type", "meaning")
    return f"\n### {record.__name__}\n\n{summary.strip().replace('``', '`')}\n\n{table(heads, rows)}\n"


def read_model_md() -> str:
    """The page of the read model."""
    found = [each for each in vars(records).values() if inspect.isclass(each) and each.__module__ == records.__name__]
    plain = [each for each in found if not dataclasses.is_dataclass(each)]
    filters = [each for each in found if dataclasses.is_dataclass(each)]
    return READ_MODEL_INTRODUCTION + "".join(
        [states(), *map(record_section, plain), "\n## Filter\n", *map(record_section, filters)]
    )


def states() -> str:
    """The values of state and phase, from the comments of their types."""
    source = inspect.getsource(records)
    parts: list[str] = []
    for name in ("State", "Phase"):
        _, _, rest = source.partition(f"\n{name} = ")
        text = rest.split('"""')[1].replace("``", "`").strip()
        parts.append(f"\n### {name}\n\n{text}\n")
    return "".join(parts)


if __name__ == "__main__":
    READ_MODEL_MD.write_text(read_model_md())
    WARNINGS_MD.write_text(warnings_md())
    NAMES_MD.write_text(names_md())
    CLI_MD.write_text(cli_md())
