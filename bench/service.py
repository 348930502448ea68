"""The cost of instrumentation in a service: CPU per request, throughput and p99, beside comparable libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Columns, Figure, Size, Statistic, figure, interleaved
from bench.peers import PEERS, python_of
from bench.receiver import Receiver
from bench.service_worker import AT_ONCE, NODES, REQUESTS

TITLE = "A service"
ROUNDS = {"quick": 1, "normal": 12, "full": 40}
WORKER = Path(__file__).with_name("service_worker.py")
FORMS = {"plain": "", "streamed": ", tokens streamed and metrics on"}
SPANS = 1 + 2 * NODES
"""Spans of a request with nodespan: the run, and each node with its model call."""


class Service:
    """A service in a separate process, with a library or none, that exports to its own receiver."""

    def __init__(self, python: str | Path, library: str, form: str, receiver: Receiver) -> None:
        self._library, self._receiver = library, receiver
        command = [python, WORKER, library, form, receiver.endpoint]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def measure(self) -> dict[str, float]:
        """Runs all requests, and checks that the spans were received."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        answer = self._answer()
        spans = self._receiver.spans()
        is_right = {"none": spans == 0, "nodespan": spans == SPANS * REQUESTS}.get(self._library, spans >= REQUESTS)
        assert is_right, f"{self._library}: {spans} spans of {REQUESTS} requests"
        return answer

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
    return [found for form in FORMS for found in figures(form, size)]


def figures(form: str, size: Size) -> list[Figure]:
    """All figures of one form of the service."""
    # The quick form is for tests, which need no network.
    libraries = ["none", "nodespan", *([] if size == "quick" else PEERS)]
    receivers = [Receiver() for _ in libraries]
    services: list[Service] = []
    try:
        for library, receiver in zip(libraries, receivers, strict=True):
            python = python_of(library) if library in PEERS else sys.executable
            services.append(Service(python, library, form, receiver.__enter__()))
        variants: dict[str, Callable[[], Any]] = {
            library: service.measure for library, service in zip(libraries, services, strict=True)
        }
        columns = interleaved(variants, ROUNDS[size], warmups=1)
    finally:
        for service in services:
            service.close()
        for receiver in receivers[: len(services)]:
            receiver.__exit__()
    what = f"{REQUESTS} requests, {AT_ONCE} at once, of {NODES} nodes that call a model"
    return list(_figures(FORMS[form], columns, what))


def _figures(form: str, columns: Columns, of: str) -> list[Figure]:
    found: list[Figure] = []
    for library in columns:
        shown = "uninstrumented" if library == "none" else library
        found += [
            figure(f"{shown}: throughput{form}", "1/s", columns, _median(library, "per_s"), of=of),
            figure(f"{shown}: p99{form}", "ms", columns, _median(library, "p99_ms"), of=of),
        ]
        if library != "none":
            name = f"{library}: added CPU{form}"
            found.append(figure(name, "ms/request", columns, _added(library), of=of))
    name = f"nodespan / uninstrumented: throughput{form}"
    found.append(figure(name, "x", columns, _of_none("nodespan", "per_s"), ">= 0.8", of))
    if peers := [library for library in columns if library in PEERS]:

        def best_peer(rounds: Columns) -> float:
            return min(_added(peer)(rounds) for peer in peers) / _added("nodespan")(rounds)

        found.append(figure(f"the best peer / nodespan: added CPU{form}", "x", columns, best_peer, ">= 4", of))
    return found


def _median(library: str, key: str) -> Statistic:
    return lambda columns: median(answer[key] for answer in columns[library])


def _added(library: str) -> Statistic:
    pairs = "none", library
    return lambda columns: median(
        on["cpu_ms"] - off["cpu_ms"] for off, on in zip(*(columns[name] for name in pairs), strict=True)
    )


def _of_none(library: str, key: str) -> Statistic:
    return lambda columns: median(on[key] / off[key] for off, on in zip(columns["none"], columns[library], strict=True))
