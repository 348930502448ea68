"""`nodespan flush`: sends the waiting spans."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from nodespan.cli._output import print_json
from nodespan.delivery.flush import flush_store, list_waiting
from nodespan.telemetry.settings import Settings

if TYPE_CHECKING:
    from nodespan.cli._output import Console
    from nodespan.delivery.flush import FlushReport


def show_waiting(console: Console, *, as_json: bool) -> None:
    """Prints the waiting spans by destination."""
    waiting = list_waiting()
    if as_json:
        print_json([asdict(each) for each in waiting])
        return
    if not waiting:
        console.print("Nothing waits.")
    for each in waiting:
        age_s = max(time.time_ns() - each.oldest_ns, 0) / 1e9
        where = f"{each.identity} {each.label}" if each.identity else "(no endpoint)"
        error = f", last error: {each.last_error}" if each.last_error else ""
        console.print(f"{where}: {each.spans} spans, the oldest {age_s:.0f} s ago{error}", soft_wrap=True)


def flush_outbox(console: Console, *, everything: bool, source: str | None, timeout_s: float, as_json: bool) -> bool:
    """Sends the waiting spans and prints the outcome. Returns whether no span waits afterwards."""

    def progress(done: int, total: int) -> None:
        if not as_json:
            console.progress(f"{done} of {total} spans")

    destination = Settings().destination()
    report = flush_store(destination, everything=everything, source=source, timeout_s=timeout_s, progress=progress)
    if as_json:
        print_json(asdict(report))
    else:
        _show(console, report)
    return not report.waiting


def _show(console: Console, report: FlushReport) -> None:
    console.print(f"{report.sent} spans were sent to {report.destination}.", soft_wrap=True)
    for reason, spans in report.lost.items():
        console.print(f"{spans} spans were permanently rejected: {reason}")
    if report.waiting:
        console.print(f"{report.waiting} spans still wait: {report.error or _other_sender(report)}", soft_wrap=True)
    if report.elsewhere:
        console.print(
            f"{report.elsewhere} spans were stored without an endpoint or for another destination. "
            "List them: nodespan flush --list",
            soft_wrap=True,
        )


def _other_sender(report: FlushReport) -> str:
    if report.sender_pid is None:
        return "timeout"
    stuck = ""
    if report.sender_idle_s is not None and report.sender_idle_s > 60:
        stuck = f" and has made no progress for {report.sender_idle_s:.0f} s; end it so that another process can send"
    return f"process {report.sender_pid} is sending them{stuck}"
