"""The cost of the server of `nodespan ui`: `python -m bench viewer` creates a store of 10^6 spans."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from bench.measure import Figure, Size, figure, interleaved, percentile, ratio_of_rounds
from bench.search import LIMIT, MODELS, NODES, SERVICES, SPANS_PER_TRACE, WORKFLOWS, fill, model, node, service
from nodespan.store import SqliteStore, StoreLimits, index_path

TITLE = "The server of nodespan ui"
SPANS = {"quick": 2_000, "normal": 1_000_000, "full": 1_000_000}
SEARCHES = {"quick": 3, "normal": 60, "full": 200}
STARTS = {"quick": 1, "normal": 3, "full": 9}
IDLE_S = {"quick": 2.0, "normal": 20.0, "full": 60.0}
BUSY_ROUNDS = {"quick": 2, "normal": 20, "full": 40}
BUSY_S = {"quick": 0.5, "normal": 2.0, "full": 2.0}


def run(size: Size) -> list[Figure]:
    return [*lists(size), *beside_a_program(size)]


class Viewer:
    """``nodespan ui`` on a store, in a separate process.

    Attributes:
        base: Its address.
        client: Reads its documents.
    """

    def __init__(self, store: Path) -> None:
        command = [sys.executable, "-c", "from nodespan.cli import main; main()", "ui", "--port", "0", "--no-token"]
        environment = {**os.environ, "NODESPAN_STORE": str(store)}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Viewer:
        assert self._process.stdout is not None
        self.base = self._process.stdout.readline().strip()
        self.client = httpx.Client(base_url=self.base, timeout=120, trust_env=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.terminate()
        self._process.communicate(timeout=20)

    def cpu_s(self) -> float:
        """CPU time of the process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def runs(self, **query: str) -> Any:
        """The document of a list."""
        answer = self.client.get("/runs.json", params={"limit": str(LIMIT), **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def is_indexed(self) -> bool:
        """All spans of the store are in the index."""
        status = self.runs()["status"]
        return status["indexed_spans"] == status["spans"]

    @contextmanager
    def page(self) -> Iterator[None]:
        """A client that reads the changes of the list, as an open page does."""
        with self.client.stream("GET", "/events", params={"cursor": self.runs()["cursor"]}) as answer:
            thread = threading.Thread(target=_read, args=(answer,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                answer.extensions["network_stream"].get_extra_info("socket").shutdown(2)
                thread.join(20)


def _read(answer: httpx.Response) -> None:
    with suppress(httpx.TransportError):  # the page was closed
        for _ in answer.iter_raw():
            pass


def lists(size: Size) -> list[Figure]:
    """Each filter of the list in a large store, also while its index is filled."""
    with TemporaryDirectory(prefix="nodespan-viewer-") as folder:
        path = Path(folder) / "store.db"
        store = SqliteStore(path, StoreLimits(max_bytes=2**33))
        trace_ids = fill(store, SPANS[size])
        store.close()
        of = f"{len(trace_ids) * SPANS_PER_TRACE:,} spans in {len(trace_ids):,} traces"
        found = without_index(path, STARTS[size], of)
        with Viewer(path) as viewer:
            while not viewer.is_indexed():
                time.sleep(0.2)
            for kind, query in queries(trace_ids).items():
                viewer.runs(**query())
                before_s = viewer.cpu_s()
                took_ms = [timed(lambda query=query: viewer.runs(**query())) for _ in range(SEARCHES[size])]
                name = f"list, {kind}"
                cpu_ms = (viewer.cpu_s() - before_s) * 1e3 / len(took_ms)
                found.append(Figure(f"{name}, p95 of {len(took_ms)}", percentile(took_ms, 95), "ms", "<= 100", of=of))
                found.append(Figure(f"{name}, CPU", cpu_ms, "ms", of=of))
        return found


def queries(trace_ids: list[str]) -> dict[str, Callable[[], dict[str, str]]]:
    """Filters of the page."""
    chance = random.Random(0)
    return {
        "newest": dict,
        "by service": lambda: {"service": service(chance.randrange(SERVICES))},
        "by workflow": lambda: {"workflow": f"workflow-{chance.randrange(WORKFLOWS)}"},
        "by node": lambda: {"node": node(chance.randrange(NODES))},
        "by model": lambda: {"model": model(chance.randrange(MODELS))},
        "by node and service": lambda: {"node": node(chance.randrange(NODES)), "service": service(0)},
        "longer than": lambda: {"min": "0.05"},
        "since": lambda: {"since": str(time.time_ns() - 3600 * 10**9)},
        "with an error (none)": lambda: {"error": "1"},
        "running (none)": lambda: {"running": "1"},
        "by id": lambda: {"id": chance.choice(trace_ids)[:8]},
        "a later page": lambda: {"before": chance.choice(trace_ids)},
    }


def without_index(path: Path, starts: int, of: str) -> list[Figure]:
    """The first list of a store whose index does not exist, and further ones while it is filled."""
    first_ms: list[float] = []
    during_ms: list[float] = []
    filled_s: list[float] = []
    for _ in range(starts):
        index_path(path).unlink(missing_ok=True)
        with Viewer(path) as viewer:
            started = time.monotonic()
            viewer.client.get("/")  # the start of the server is measured by `python -m bench page`
            first_ms.append(timed(viewer.runs))
            while not viewer.is_indexed():
                during_ms.append(timed(viewer.runs))
            filled_s.append(time.monotonic() - started)
    return [
        Figure("first list without an index, slowest", max(first_ms), "ms", "<= 500", of=of),
        Figure("list while the index is filled, p95", percentile(during_ms or first_ms, 95), "ms", of=of),
        Figure("filling the index, median", percentile(filled_s, 50), "s", of=of),
    ]


def beside_a_program(size: Size) -> list[Figure]:
    """Requests of a busy program with and without an open page, and the viewer's CPU while nothing changes."""
    with TemporaryDirectory(prefix="nodespan-viewer-") as folder:
        path = Path(folder) / "store.db"
        SqliteStore(path).stats()
        with Viewer(path) as viewer, program(path) as measure:

            def watched() -> dict[str, Any]:
                with viewer.page():
                    return measure(BUSY_S[size])

            rounds = interleaved({"with": watched, "without": lambda: measure(BUSY_S[size])}, BUSY_ROUNDS[size])
            with viewer.page():
                time.sleep(1)
                before_s = viewer.cpu_s()
                time.sleep(IDLE_S[size])
                idle = (viewer.cpu_s() - before_s) / IDLE_S[size]
    of = f"{BUSY_S[size]:.0f} s of requests of 2 ms with six spans each, with and without an open page"
    columns: dict[str, list[float]] = {}
    for name, several in rounds.items():
        columns[f"{name} p99"] = [percentile(each["took_ms"], 99) for each in several]
        columns[f"{name} cpu"] = [each["cpu_ms"] for each in several]
    p99 = ratio_of_rounds("with p99", "without p99")
    cpu = ratio_of_rounds("with cpu", "without cpu")
    return [
        figure("p99 of a program, with / without a page", "x", columns, p99, "<= 1.05", of),
        figure("CPU per request of a program, with / without a page", "x", columns, cpu, "<= 1.03", of),
        Figure("CPU of the viewer while nothing changes", idle * 100, "%", "<= 1", of="with an open page"),
    ]


@contextmanager
def program(store: Path) -> Iterator[Callable[[float], Any]]:
    """``bench.viewer_worker`` on the store; yields a function that runs it for a number of seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.viewer_worker"],
        env={**os.environ, "NODESPAN_STORE": str(store)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def measure(seconds: float) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield measure
    process.communicate(timeout=60)


def timed(work: Callable[[], object]) -> float:
    """Duration of a call in ms."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3
