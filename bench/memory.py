"""Growth of resident memory with the number of runs: `python -m bench memory --full` does 10^5 runs and 10^6 spans."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import TypedDict

import nodespan
from bench.graphs import chain
from bench.measure import Columns, Figure, Size, Statistic, figure
from bench.receiver import Receiver

TITLE = "Resident memory over many runs"
RUNS = {"quick": 200, "normal": 10_000, "full": 100_000}
NODES = 10
CANCELLED_EVERY = 10
WINDOWS, WARMUP_WINDOWS = 100, 30


class State(TypedDict):
    """A run with ``n`` below 0 blocks in its fourth node until it is cancelled."""

    n: int


class Graph:
    """A chain of nodes, each of which may block."""

    def __init__(self) -> None:
        self._stuck = asyncio.Event()
        self._graph = chain(State, self._step, NODES)

    async def run(self) -> None:
        """Runs the graph to its end."""
        await self._graph.ainvoke({"n": 0})

    async def run_cancelled(self) -> None:
        """Runs the graph until its fourth node blocks."""
        self._stuck.clear()
        task = asyncio.create_task(self._graph.ainvoke({"n": -4}))
        await self._stuck.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def _step(self, state: State) -> dict[str, int]:
        if state["n"] == -1:
            self._stuck.set()
            await asyncio.Event().wait()
        return {"n": state["n"] + 1}


def run(size: Size) -> list[Figure]:
    runs = RUNS[size]
    with Receiver() as receiver:
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-m", "bench.memory", endpoint, str(runs)], stdout=subprocess.PIPE, text=True
            )
            for name, endpoint in (("nodespan", receiver.endpoint), ("bare", ""))
        }
        samples = {name: json.loads(process.communicate()[0]) for name, process in processes.items()}
        received = receiver.spans()
    spans = runs * (NODES + 1) - runs // CANCELLED_EVERY * (NODES - 4)
    assert received == spans, f"{received} of {spans} spans were received"
    growth = {name: [b - a for a, b in itertools.pairwise(kept)] for name, kept in samples.items()}
    of = f"{runs // WINDOWS} of {runs} runs, every {CANCELLED_EVERY}th cancelled, {spans} spans, all received"
    return [
        *(Figure(f"resident at the end, {name}", kept[-1] / 2**20, "MiB", of=of) for name, kept in samples.items()),
        figure("growth, uninstrumented", "bytes/run", growth, per_run("bare", runs), of=of),
        figure("growth, nodespan", "bytes/run", growth, per_run("nodespan", runs), of=of),
        figure("growth, nodespan over uninstrumented", "bytes/run", growth, difference(runs), "~ 0", of),
    ]


def per_run(name: str, runs: int) -> Statistic:
    return lambda columns: sum(columns[name]) / len(columns[name]) / (runs / WINDOWS)


def difference(runs: int) -> Statistic:
    def statistic(columns: Columns) -> float:
        return per_run("nodespan", runs)(columns) - per_run("bare", runs)(columns)

    return statistic


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:  # noqa: PTH123 allocates as little as possible
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def sampled(runs: int, settle: Callable[[], object]) -> list[int]:
    """Resident memory after each window of runs, without the warm-up windows.

    Waiting spans are written before: in a loop without a pause spans end faster than they are written, and waiting
    spans are memory in use and not a leak.
    """
    graph = Graph()
    samples: list[int] = []
    for i in range(1, runs + 1):
        await (graph.run() if i % CANCELLED_EVERY else graph.run_cancelled())
        if i % (runs // WINDOWS) == 0:
            settle()
            samples.append(resident_bytes())
    return samples[WARMUP_WINDOWS:]


def main(endpoint: str, runs: int) -> None:
    if endpoint:
        nodespan.instrument()
    with nodespan.configure("bench", endpoint=endpoint) if endpoint else nullcontext() as telemetry:
        settle = partial(telemetry.force_flush, 60) if telemetry is not None else bool
        samples = asyncio.run(sampled(runs, settle))
        assert settle() or telemetry is None, "not all spans were delivered"
    print(json.dumps(samples))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
