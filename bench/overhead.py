"""The cost of a node: over the uninstrumented graph, and beside the SDK's span and comparable libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import Columns, Figure, Size, added, figure, interleaved, median, ratio
from bench.overhead_worker import NODES, RUNS
from bench.peers import PEERS, python_of

TITLE = "Added per node"
ROUNDS = {"quick": 2, "normal": 30, "full": 100}
WORKER = Path(__file__).with_name("overhead_worker.py")


class Process:
    """A worker process in some environment."""

    def __init__(self, python: str | Path, library: str) -> None:
        command = [python, WORKER, library]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.floors: list[str] = self._answer()["floors"]

    def measure(self, mode: str, variant: str, *, has_spans: bool) -> Callable[[], float]:
        """Measures the variant once, and checks its number of spans."""

        def once() -> float:
            assert self._process.stdin is not None
            print(json.dumps({"mode": mode, "variant": variant}), file=self._process.stdin, flush=True)
            answer = self._answer()
            is_right = answer["spans"] >= NODES * RUNS if has_spans else answer["spans"] == 0
            assert is_right, f"{variant}, {mode}: {answer['spans']} spans"
            return answer["us"]

        return once

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a worker ended; the reason is above")
        return json.loads(line)


def run(size: Size) -> list[Figure]:
    ours = Process(sys.executable, "nodespan")
    # The quick form is for tests, which need no network.
    peers = [] if size == "quick" else list(PEERS)
    theirs = {peer: (Process(python_of(peer), "none"), Process(python_of(peer), peer)) for peer in peers}
    try:
        return [found for mode in ("sync", "async", "events") for found in figures(mode, ours, theirs, ROUNDS[size])]
    finally:
        for process in [ours, *(process for pair in theirs.values() for process in pair)]:
            process.close()


def figures(mode: str, ours: Process, theirs: dict[str, tuple[Process, Process]], rounds: int) -> list[Figure]:
    """The figures of one way to run the graph."""
    variants = {
        "bare": ours.measure(mode, "bare", has_spans=False),
        "spans": ours.measure(mode, "spans", has_spans=True),
        "metrics": ours.measure(mode, "metrics", has_spans=True),
        **{floor: ours.measure(mode, floor, has_spans=True) for floor in ours.floors},
    }
    for peer, (without, with_peer) in theirs.items():
        variants[f"without {peer}"] = without.measure(mode, "bare", has_spans=False)
        variants[peer] = with_peer.measure(mode, "on", has_spans=True)
    columns = interleaved(variants, rounds)
    of = f"{RUNS} runs of {NODES} trivial nodes"
    return [
        figure(f"uninstrumented, {mode}", "µs/node", columns, median("bare"), of=of),
        *beside_floor(mode, columns, "spans", of),
        *(beside_floor(mode, columns, "metrics", of) if "floor of metrics" in columns else []),
        *(found for peer in theirs for found in beside_peer(mode, columns, peer, of)),
    ]


def beside_floor(mode: str, columns: Columns, variant: str, of: str) -> list[Figure]:
    ours = added(variant, "bare")
    floor, by_hand = median(f"floor of {variant}"), added(f"{variant} by hand", "bare")
    what = "nodespan with metrics" if variant == "metrics" else "nodespan"
    goal = "<= 0.7" if variant == "metrics" else "<= 0.8"
    with_records = " and records" if variant == "metrics" else ""
    return [
        figure(f"{what}, {mode}", "µs/node", columns, ours, of=of),
        figure(f"floor: the same span{with_records} in a loop, {mode}", "µs", columns, floor, of=of),
        figure(f"by hand: the same span{with_records} in the graph, {mode}", "µs/node", columns, by_hand, of=of),
        figure(f"{what} / floor, {mode}", "x", columns, ratio(ours, floor), of=of),
        figure(f"{what} / by hand, {mode}", "x", columns, ratio(ours, by_hand), goal, of),
    ]


def beside_peer(mode: str, columns: Columns, peer: str, of: str) -> list[Figure]:
    theirs = added(peer, f"without {peer}")
    return [
        figure(f"{peer}, {mode}", "µs/node", columns, theirs, of=of),
        figure(f"{peer} / nodespan, {mode}", "x", columns, ratio(theirs, added("spans", "bare")), ">= 6", of),
    ]
