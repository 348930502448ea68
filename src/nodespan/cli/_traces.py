"""`nodespan traces` and `nodespan trace`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from nodespan.cli._output import Console, print_json, safe
from nodespan.cli._tree import duration, render_tree
from nodespan.cli._watch import follow_trace, follow_traces
from nodespan.cli._words import SHORT_ID, STYLES, phase_text
from nodespan.errors import ConfigurationError
from nodespan.store import MEMORY, StoreReader, TraceFilter, open_store, store_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodespan.store.records import TraceRecord

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TABLE_WIDTH: Final = 72
"""On a narrower terminal each trace is printed on several lines: a table would cut ids."""


def open_reader() -> StoreReader:
    """A reader of the local store, which shows the progress of a long first fill of the index."""
    console = Console(stderr=True)

    def progress(done: int, total: int) -> None:
        if total > done:
            console.progress(f"indexing {done} of {total} spans")

    return StoreReader(open_store(), progress)


def list_traces(console: Console, wanted: TraceFilter, limit: int, *, follow: bool, as_json: bool) -> None:
    """Prints the newest traces that match, or with ``follow`` each change of a trace from now on."""
    with open_reader() as reader:
        if wanted.is_running and store_path() == MEMORY:
            raise ConfigurationError(
                "--running: with NODESPAN_STORE=memory the open spans of other processes are not visible. "
                "Set NODESPAN_STORE to the same file for both."
            )
        if follow:
            follow_traces(console, reader, wanted, as_json=as_json)
        found = reader.find(wanted, limit)
        untracked = reader.status()["untracked"] if wanted.is_running else 0
    if untracked:
        Console(stderr=True).print(
            f"{untracked} spans of running processes were not shown while open: at most 10,000 per process are tracked."
        )
    if as_json:
        print_json(found)
    elif not found:
        rest = ". Create one: nodespan demo" if wanted == TraceFilter() else " matches the options."
        console.print(f"No trace in {store_path()}{rest}", soft_wrap=True)
    elif console.width < _TABLE_WIDTH:
        for trace in found:
            console.print(_line(trace), soft_wrap=True)
    else:
        console.print(_table(found))


def _line(trace: TraceRecord) -> Text:
    took = duration(trace["duration_s"] * 1e9)
    errors = (f"  {trace['errors']} errors", "red") if trace["errors"] else ""
    return Text.assemble(
        trace["trace_id"][:SHORT_ID], f"  {took}", errors, "  ", _state(trace), f"  {safe(trace['name'])}"
    )


def _state(trace: TraceRecord) -> Text:
    """Empty for a trace that has ended, as most have."""
    if trace["state"] == "ended":
        return Text()
    words = f"{trace['state']} {phase_text(trace['phase'])}".strip()
    return Text(words, STYLES[trace["state"]])


def _table(traces: Sequence[TraceRecord]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    has_open = any(trace["state"] != "ended" for trace in traces)
    for name in ("trace", "started", "took", "spans", "errors", "service", *(["state"] if has_open else []), "name"):
        table.add_column(name, justify="right" if name in {"took", "spans", "errors"} else "left")
    table.columns[0].no_wrap = True
    for trace in traces:
        started = datetime.fromtimestamp(trace["start_ns"] / 1e9, UTC).astimezone()
        table.add_row(
            trace["trace_id"][:SHORT_ID],
            started.strftime("%Y-%m-%d %H:%M:%S"),
            duration(trace["duration_s"] * 1e9),
            str(trace["spans"]),
            Text(str(trace["errors"]), "red" if trace["errors"] else ""),
            safe(trace["service"]),
            *([_state(trace)] if has_open else []),
            safe(trace["name"]),
        )
    return table


def show_trace(console: Console, prefix: str | None, *, follow: bool, verbose: bool, as_json: bool) -> None:
    """Prints one trace as a tree; with ``follow`` while it lasts, with ``verbose`` all that its spans hold."""
    with open_reader() as reader:
        if follow:
            follow_trace(console, reader, prefix, as_json=as_json)
            return
        if prefix is None:
            raise ConfigurationError("The trace ID is missing. Give it, or --follow for the next trace.")
        content = reader.get(prefix)
    if as_json:
        print_json(content["spans"])
        return
    console.print(f"trace {content['trace']['trace_id']}", style="dim")
    for tree in render_tree(content["spans"], console.width, verbose=verbose):
        console.print(tree)


def parse_metadata(pairs: Sequence[str]) -> tuple[str, ...]:
    """Checks pairs such as ``plan=free``.

    Raises:
        ConfigurationError: One of them has no ``=``, or no key before it.
    """
    for pair in pairs:
        if "=" not in pair[1:]:
            raise ConfigurationError(f"--meta {pair} has no key or no value. Give KEY=VALUE, such as --meta plan=free.")
    return tuple(pairs)


def parse_since(text: str | None) -> int | None:
    """``15m``, ``2h``, ``7d`` ago, or an ISO 8601 time (local if it has no zone), as Unix time in ns.

    Raises:
        ConfigurationError: It is neither.
    """
    if text is None:
        return None
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        return max(time.time_ns() - int(found[1]) * _UNITS_S[found[2]] * 10**9, 0)
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError(f"--since {text} is not a time. Give 15m, 2h, 7d, or 2026-01-31T12:00.") from None
