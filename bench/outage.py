"""Latency of the application while the collector is down."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodespan
from bench.graphs import Count, chain, count
from bench.measure import Columns, Figure, Size, Statistic, figure, interleaved, percentile, ratio
from bench.receiver import Receiver

TITLE = "The application while the collector is down"
ROUNDS = {"quick": 1, "normal": 10, "full": 30}
REQUESTS = {"quick": 20, "normal": 400, "full": 600}
WARMUP_REQUESTS = 20
PAUSE_S = 0.002
NODES = 10


def run(size: Size) -> list[Figure]:
    rounds, requests = ROUNDS[size], REQUESTS[size]
    with Receiver() as receiver:
        variants = {
            "up": application(receiver.endpoint, requests),
            "down": application("http://127.0.0.1:9", requests),  # the discard port, where no server listens
        }
        columns = interleaved(variants, rounds, warmups=0)
    of = f"a new process with {requests} requests of {NODES} trivial nodes"
    return [
        *(figure(f"p99, collector {name}", "ms", columns, p99(name), of=of) for name in variants),
        figure("p99, down / up", "x", columns, ratio(p99("down"), p99("up")), "<= 1.2", of),
    ]


def p99(name: str) -> Statistic:
    def statistic(columns: Columns) -> float:
        return percentile([ms for latencies in columns[name] for ms in latencies], 99)

    return statistic


def application(endpoint: str, requests: int) -> Callable[[], Any]:
    """Duration of each request to a new process, in ms."""
    command = [sys.executable, "-m", "bench.outage", endpoint, str(requests)]

    def once() -> list[float]:
        store = Path(os.environ["NODESPAN_STORE"])
        for name in (store, *store.parent.glob(f"{store.name}-*")):
            name.unlink(missing_ok=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return json.loads(done.stdout)

    return once


async def latencies_ms(requests: int) -> list[float]:
    graph = chain(Count, count, NODES)
    took_ms: list[float] = []
    for _ in range(WARMUP_REQUESTS + requests):
        started = time.perf_counter()
        await graph.ainvoke({"n": 0})
        took_ms.append((time.perf_counter() - started) * 1e3)
        await asyncio.sleep(PAUSE_S)
    return took_ms[WARMUP_REQUESTS:]


if __name__ == "__main__":
    nodespan.instrument()
    with nodespan.configure("bench", endpoint=sys.argv[1]):
        print(json.dumps(asyncio.run(latencies_ms(int(sys.argv[2])))))
