"""`nodespan traces` and `nodespan trace`."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nodespan.cli._tree import duration, render_tree
from nodespan.errors import ConfigurationError
from nodespan.store import StoreReader, open_store, store_path

if TYPE_CHECKING:
    from nodespan.store import TraceFilter

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SHORT_ID: Final = 8


def open_reader() -> StoreReader:
    """A reader on the local store, which shows how far a long first fill of the index is."""
    console = Console(stderr=True)

    def progress(done: int, total: int) -> None:
        if console.is_terminal and total > done:
            console.print(f"indexing {done} of {total} spans", style="dim", end="\r")

    return StoreReader(open_store(), progress)


def list_traces(console: Console, wanted: TraceFilter, limit: int, *, as_json: bool) -> None:
    """Prints the newest traces that fit."""
    found = open_reader().find_traces(wanted, limit)
    if as_json:
        from nodespan.cli._app import print_json

        print_json([{**asdict(trace), "duration_s": (trace.end_ns - trace.start_ns) / 1e9} for trace in found])
        return
    if not found:
        console.print(f"No such trace in {store_path()}. Make one: nodespan demo", markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("trace", "started", "took", "spans", "errors", "service", "name"):
        table.add_column(name, justify="right" if name in {"took", "spans", "errors"} else "left")
    for trace in found:
        started = datetime.fromtimestamp(trace.start_ns / 1e9, UTC).astimezone()
        table.add_row(
            trace.trace_id[:SHORT_ID],
            started.strftime("%Y-%m-%d %H:%M:%S"),
            duration(trace.end_ns - trace.start_ns),
            str(trace.spans),
            f"[red]{trace.errors}[/red]" if trace.errors else "0",
            Text(trace.service),
            Text(trace.name),
        )
    console.print(table)


def show_trace(console: Console, prefix: str, *, as_json: bool) -> None:
    """Prints one trace as a tree."""
    spans = open_reader().get_trace(prefix)
    if as_json:
        from nodespan.cli._app import print_json

        print_json([asdict(span) for span in spans])
        return
    console.print(f"trace {spans[0].trace_id}", style="dim")
    for tree in render_tree(spans, console.width):
        console.print(tree)


def parse_since(text: str | None) -> int | None:
    """``15m``, ``2h``, ``7d`` ago, or an ISO 8601 time (local if it has no zone), as Unix time in ns.

    Raises:
        ConfigurationError: It is neither.
    """
    if text is None:
        return None
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time_ns() - int(found[1]) * _UNITS_S[found[2]] * 10**9
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except ValueError:
        raise ConfigurationError(f"--since {text} is no time. Give 15m, 2h, 7d, or 2026-01-31T12:00.") from None
