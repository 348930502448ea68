"""`--follow`: changes of all traces, or of one."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.live import Live
from rich.text import Text

from nodespan.cli._output import Console, safe
from nodespan.cli._tree import duration, render_tree
from nodespan.cli._words import SHORT_ID, phase_text, state_text
from nodespan.errors import StoreError

if TYPE_CHECKING:
    from nodespan.store import StoreReader, TraceFilter
    from nodespan.store.records import Changes, SpanRecord, TraceContent, TraceRecord

_WAIT_S: Final = 0.5
"""Interval at which durations are shown again."""


def follow_traces(console: Console, reader: StoreReader, wanted: TraceFilter, *, as_json: bool) -> None:
    """Prints a line, or a JSON record, each time a trace begins, changes its phase, or ends; until interrupted."""
    shown: dict[str, str] = {}
    cursor = reader.cursor()
    while True:
        changes = reader.follow(cursor, wanted, wait_s=_WAIT_S)
        cursor = changes["cursor"]
        for trace in changes["traces"]:
            if as_json:
                sys.stdout.write(json.dumps(trace) + "\n")
            elif shown.get(trace["trace_id"]) != (line := _state(trace)):
                shown[trace["trace_id"]] = line
                console.print(_line(trace, line), soft_wrap=True)
            if trace["state"] == "ended":
                shown.pop(trace["trace_id"], None)
        sys.stdout.flush()


def _state(trace: TraceRecord) -> str:
    state = state_text(trace["state"], None)
    return f"{state}  {phase_text(trace['phase'])}" if trace["phase"] is not None else state


def _line(trace: TraceRecord, state: str) -> Text:
    errors = (f"  {trace['errors']} errors", "red") if trace["errors"] else ""
    clock = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
    took = duration(trace["duration_s"] * 1e9)
    return Text.assemble(
        (f"{clock}  ", "dim"), trace["trace_id"][:SHORT_ID], f"  {took}", errors, f"  {safe(trace['name'])}  ", state
    )


def follow_trace(console: Console, reader: StoreReader, prefix: str | None, *, as_json: bool) -> None:
    """Shows a trace until none of its spans is open.

    Args:
        console: On a terminal the tree is redrawn; otherwise a line is printed per change of a span.
        reader: Of the store.
        prefix: The trace's id or a unique prefix; ``None``: the running trace, or the next one.
        as_json: Print a JSON record per change of a span.
    """
    cursor = reader.cursor()
    content = reader.get(_running_trace(reader) if prefix is None else prefix)
    if console.is_terminal and not as_json:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while _is_open(content):
                live.update(_drawn(content, console.width), refresh=True)
                cursor, content = _next(reader, cursor, content)
        console.print(_drawn(content, console.width))
        return
    shown: dict[str, str] = {}
    _print_changes(console, content, shown, as_json=as_json)
    while _is_open(content):
        cursor, content = _next(reader, cursor, content)
        _print_changes(console, content, shown, as_json=as_json)


def _running_trace(reader: StoreReader) -> str:
    from nodespan.store import TraceFilter

    cursor = reader.cursor()
    console = Console(stderr=True)
    while True:
        for trace in reader.find(TraceFilter(is_running=True), 20):
            if trace["state"] != "lost":
                return trace["trace_id"]
        console.progress("waiting for the next trace")
        cursor = reader.follow(cursor, wait_s=_WAIT_S)["cursor"]


def _next(reader: StoreReader, cursor: str, content: TraceContent) -> tuple[str, TraceContent]:
    """Waits for a change, or a short time; a trace without spans (all were deleted) has ended."""
    changes: Changes = reader.follow(cursor, wait_s=_WAIT_S)
    try:
        return changes["cursor"], reader.get(content["trace"]["trace_id"])
    except StoreError:
        return changes["cursor"], {**content, "trace": {**content["trace"], "state": "ended"}}


def _is_open(content: TraceContent) -> bool:
    return content["trace"]["state"] in ("running", "silent")


def _drawn(content: TraceContent, width: int) -> Group:
    return Group(Text(f"trace {content['trace']['trace_id']}", "dim"), *render_tree(content["spans"], width))


def _print_changes(console: Console, content: TraceContent, shown: dict[str, str], *, as_json: bool) -> None:
    for span in content["spans"]:
        now = _of_span(span)
        if shown.get(span["span_id"]) == now:
            continue
        shown[span["span_id"]] = now
        if as_json:
            sys.stdout.write(json.dumps(span) + "\n")
        else:
            clock = datetime.fromtimestamp(time.time(), UTC).astimezone().strftime("%H:%M:%S")
            console.print(f"{clock}  {now}  {safe(span['name'])}", soft_wrap=True)
    sys.stdout.flush()


def _of_span(span: SpanRecord) -> str:
    if span["state"] == "ended":
        return f"{'failed' if span['status_code'] == 'ERROR' else 'ended'} after {duration(span['duration_s'] * 1e9)}"
    words = state_text(span["state"], None)
    return f"{words}  {phase_text(span['phase'])}" if span["phase"] is not None else words
