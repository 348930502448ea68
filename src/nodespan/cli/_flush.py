"""`nodespan flush`: sends what waits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from nodespan.cli._output import print_json
from nodespan.telemetry.flush import flush_store
from nodespan.telemetry.settings import Settings

if TYPE_CHECKING:
    from nodespan.cli._output import Console


def flush_outbox(console: Console, *, everything: bool, timeout_s: float, as_json: bool) -> bool:
    """Sends what waits, says what became of it, and whether nothing waits any more."""

    def progress(done: int, total: int) -> None:
        if not as_json:
            console.progress(f"{done} of {total} spans")

    report = flush_store(Settings(), everything=everything, timeout_s=timeout_s, progress=progress)
    if as_json:
        print_json(asdict(report))
        return not report.waiting
    console.print(f"{report.sent} spans were sent to {report.destination}.", soft_wrap=True)
    for reason, spans in report.lost.items():
        console.print(f"{spans} spans were refused for good: {reason}")
    if report.waiting:
        console.print(f"{report.waiting} spans still wait: {report.error or 'another process is sending them'}")
    if report.elsewhere:
        console.print(
            f"{report.elsewhere} spans were not kept for this destination. Send them too: nodespan flush --all"
        )
    return not report.waiting
