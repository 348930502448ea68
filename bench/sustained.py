"""A program without pauses: the share of its spans that is stored while it runs.

The measured program is this module: ``python -m bench.sustained SECONDS [ENDPOINT]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nodespan
from bench.graphs import Count, chain, count
from bench.measure import Figure, Size
from bench.receiver import Receiver

TITLE = "Spans of a loop without a pause"
SECONDS = {"quick": 2, "normal": 20, "full": 60}
NODES = 10


def run(size: Size) -> list[Figure]:
    seconds = SECONDS[size]
    with Receiver() as receiver:
        ways = {"stored": program(seconds), "stored and sent": program(seconds, receiver.endpoint)}
    return [found for way, report in ways.items() for found in figures(way, report, seconds)]


def figures(way: str, report: dict[str, Any], seconds: int) -> list[Figure]:
    of = f"{seconds} s of runs of {NODES} trivial nodes, one after the other"
    return [
        Figure(f"ended, {way}", report["ended"] / seconds, "spans/s", of=of),
        Figure(f"written / ended, {way}", report["stored"] / report["ended"], "x", ">= 0.98", of=of),
        Figure(f"dropped, {way}", report["dropped"], "spans", "<= 0", of=of),
    ]


def program(seconds: int, *endpoint: str) -> dict[str, Any]:
    """The delivery report of a new process at the end of its loop, before anything is flushed."""
    store = Path(os.environ["NODESPAN_STORE"])
    for name in (store, *store.parent.glob(f"{store.name}-*")):
        name.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.sustained", str(seconds), *endpoint]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


async def loop(seconds: float) -> None:
    graph = chain(Count, count, NODES)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await graph.ainvoke({"n": 0})


if __name__ == "__main__":
    nodespan.instrument()
    with nodespan.configure("bench", endpoint=sys.argv[2] if len(sys.argv) > 2 else None) as telemetry:
        asyncio.run(loop(float(sys.argv[1])))
        delivery = telemetry._pipelines.delivery
        assert delivery is not None
        report = delivery.report()
        lost = sum(report.dropped.values())
        print(json.dumps({"ended": report.ended, "stored": report.stored, "dropped": lost}))
