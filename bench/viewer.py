"""What the server of `nodespan ui` takes: `python -m bench viewer` makes stores of 10^5 and 10^6 spans."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.measure import Figure, Size, figure, interleaved, percentile, ratio_of_rounds
from bench.search import LIMIT, MODELS, NODES, SERVICES, WORKFLOWS, fill, model, node, service
from nodespan import semconv
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore, StoreLimits, index_path

TITLE = "The server of the viewer"
DOCUMENT_SPANS = {"quick": 1_000, "normal": 100_000, "full": 100_000}
LIST_SPANS = {"quick": 2_000, "normal": 1_000_000, "full": 1_000_000}
SEARCHES = {"quick": 3, "normal": 60, "full": 200}
STARTS = {"quick": 1, "normal": 5, "full": 9}
IDLE_S = {"quick": 2.0, "normal": 20.0, "full": 60.0}
LIVE_NODES = {"quick": 4, "normal": 60, "full": 200}
BUSY_ROUNDS = {"quick": 1, "normal": 12, "full": 30}
BUSY_S = {"quick": 0.5, "normal": 2.0, "full": 2.0}
ATTRIBUTES = 12
TRACE_ID = b"\x07" * 16
BATCH = 64


def run(size: Size) -> list[Figure]:
    return [*starts(size), *documents(size), *lists(size), *live(size), *beside_a_program(size)]


class Viewer:
    """``nodespan ui`` on a store, in a process of its own."""

    def __init__(self, store: Path) -> None:
        self.environment = {**os.environ, "NODESPAN_STORE": str(store)}

    def __enter__(self) -> Viewer:
        command = [sys.executable, "-c", "from nodespan.cli import main; main()", "ui", "--port", "0", "--no-token"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.base = self.process.stdout.readline().strip()
        self.client = httpx.Client(base_url=self.base, timeout=120, trust_env=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def cpu_s(self) -> float:
        """CPU time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def list(self, **query: str) -> Any:
        """The runs that match."""
        answer = self.client.get("/runs.json", params={"limit": str(LIMIT), **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextmanager
    def page(self, found: list[tuple[float, Any]] | None = None) -> Iterator[None]:
        """An open page: reads the changes of the list, or those of a trace."""
        cursor = self.list()["cursor"]
        client = httpx.Client(base_url=self.base, timeout=120, trust_env=False)
        request = client.build_request("GET", "/events", params={"cursor": cursor})
        answer = client.send(request, stream=True)
        thread = threading.Thread(target=_read, args=(answer, found), daemon=True)
        thread.start()
        try:
            yield
        finally:
            answer.extensions["network_stream"].get_extra_info("socket").shutdown(2)
            thread.join(20)
            answer.close()
            client.close()


def _read(answer: httpx.Response, found: list[tuple[float, Any]] | None) -> None:
    try:
        for line in answer.iter_lines():
            if found is not None and line.startswith("data: "):
                found.append((time.time(), json.loads(line.removeprefix("data: "))))
    except httpx.TransportError:  # the page was left
        pass


class Program:
    """``bench.viewer_worker`` on the same store."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    def __enter__(self) -> Program:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.viewer_worker"],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def ask(self, command: str) -> Any:
        """The worker's answer to the command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def starts(size: Size) -> list[Figure]:
    """From the command to the first list; the page and the browser are measured by `python -m bench page`."""
    took_s: list[float] = []
    with TemporaryDirectory(prefix="nodespan-viewer-") as folder:
        store = Path(folder) / "store.db"
        made = SqliteStore(store)
        fill(made, 600)
        made.close()
        for _ in range(STARTS[size]):
            started = time.perf_counter()
            with Viewer(store) as viewer:
                assert viewer.list()["traces"]
                took_s.append(time.perf_counter() - started)
    of = "from the start of the process to the first list of 20 runs"
    return [figure("command to first list", "s", {"start": took_s}, _median("start"), "<= 1", of)]


def documents(size: Size) -> list[Figure]:
    """Request to last byte of the document of a large trace."""
    spans = DOCUMENT_SPANS[size]
    with TemporaryDirectory(prefix="nodespan-viewer-") as folder:
        store = Path(folder) / "store.db"
        fill_trace(store, spans)
        took_s: list[float] = []
        with Viewer(store) as viewer:
            viewer.list()
            for _ in range(STARTS[size] + 1):
                started = time.perf_counter()
                content = viewer.client.get(f"/trace/{TRACE_ID.hex()}.json").content
                took_s.append(time.perf_counter() - started)
    of = f"a trace of {spans:,} spans with {ATTRIBUTES} attributes each"
    return [
        figure("document of a large trace", "s", {"document": took_s[1:]}, _median("document"), "<= 0.8", of),
        Figure("its size", len(content) / 2**20, "MiB", of=of),
    ]


def lists(size: Size) -> list[Figure]:
    """Each filter of the list in a large store, and the list while its index is made."""
    with TemporaryDirectory(prefix="nodespan-viewer-") as folder:
        store = Path(folder) / "store.db"
        made = SqliteStore(store, StoreLimits(max_bytes=2**33))
        trace_ids = fill(made, LIST_SPANS[size])
        made.close()
        spans = LIST_SPANS[size]
        of = f"{spans:,} spans in {len(trace_ids):,} traces"
        found = [*without_index(store, spans, of)]
        chance = random.Random(0)
        kinds: dict[str, Callable[[], dict[str, str]]] = {
            "newest": dict,
            "by service": lambda: {"service": service(chance.randrange(SERVICES))},
            "by workflow": lambda: {"workflow": f"workflow-{chance.randrange(WORKFLOWS)}"},
            "by node": lambda: {"node": node(chance.randrange(NODES))},
            "by model": lambda: {"model": model(chance.randrange(MODELS))},
            "by two words": lambda: {"node": node(chance.randrange(NODES)), "service": service(0)},
            "longer than": lambda: {"min": "0.05"},
            "since": lambda: {"since": str(time.time_ns() - 3600 * 10**9)},
            "with an error (none)": lambda: {"error": "1"},
            "running (none)": lambda: {"running": "1"},
            "by id": lambda: {"id": chance.choice(trace_ids)[:8]},
            "a later page": lambda: {"before": chance.choice(trace_ids)},
        }
        with Viewer(store) as viewer:
            until_indexed(viewer, spans)
            for kind, query in kinds.items():
                viewer.list(**query())
                took_ms = [timed(lambda query=query: viewer.list(**query())) for _ in range(SEARCHES[size])]
                name = f"list, {kind}, p95 of {len(took_ms)}"
                found.append(Figure(name, percentile(took_ms, 95), "ms", "<= 100", of=of))
        return found


def without_index(store: Path, spans: int, of: str) -> Iterator[Figure]:
    index_path(store).unlink(missing_ok=True)
    with Viewer(store) as viewer:
        first_ms = timed(viewer.list)
        during_ms: list[float] = []
        started = time.monotonic()
        while viewer.list()["status"]["indexed_spans"] < spans:
            during_ms.append(timed(viewer.list))
        filled_s = time.monotonic() - started
    yield Figure("list without an index, the first", first_ms, "ms", "<= 500", of=of)
    yield Figure("list while the index is filled, p95", percentile(during_ms or [first_ms], 95), "ms", of=of)
    yield Figure("until the index is filled", filled_s, "s", of=of)


def until_indexed(viewer: Viewer, spans: int) -> None:
    while viewer.list()["status"]["indexed_spans"] < spans:
        time.sleep(0.2)


def live(size: Size) -> list[Figure]:
    """From the start of a node to its arrival at an open page, and the CPU of a viewer while nothing changes."""
    with TemporaryDirectory(prefix="nodespan-viewer-") as folder:
        store = Path(folder) / "store.db"
        SqliteStore(store).stats()
        lags_ms: list[float] = []
        with Viewer(store) as viewer, Program(viewer.environment) as program:
            program.ask("busy 0.1")
            with watched_nodes(viewer, program, LIVE_NODES[size]) as (starts_s, seen_s):
                lags_ms += [(seen_s[span_id] - at) * 1e3 for span_id, at in starts_s.items() if span_id in seen_s]
            assert len(lags_ms) == LIVE_NODES[size], f"{len(lags_ms)} nodes were seen"
            with viewer.page():
                time.sleep(1)
                before = viewer.cpu_s()
                time.sleep(IDLE_S[size])
                idle = (viewer.cpu_s() - before) / IDLE_S[size]
    of = "a node is in the store after 80 ms, and the viewer looks every 50 ms"
    return [
        Figure("node starts to event received, p95", percentile(lags_ms, 95), "ms", "<= 300", of=of),
        Figure("node starts to event received, p50", percentile(lags_ms, 50), "ms", of=of),
        Figure("CPU of the viewer while nothing changes", idle * 100, "%", "<= 1", of="with one open page"),
    ]


@contextmanager
def watched_nodes(viewer: Viewer, program: Program, count: int) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    """Starts of nodes, and when a page of their trace received them, in Unix seconds by span id."""
    listed: list[tuple[float, Any]] = []
    seen: dict[str, float] = {}
    answers: list[Any] = []
    with viewer.page(listed):
        asked = threading.Thread(target=lambda: answers.append(program.ask(f"nodes {count}")))
        asked.start()
        trace_id = ""
        while not trace_id:
            time.sleep(0.01)
            running = [one for _, data in list(listed) for one in data["traces"] if one["name"] == "run"]
            trace_id = running[0]["trace_id"] if running else ""
        document = viewer.client.get(f"/trace/{trace_id}.json").json()
        seen |= dict.fromkeys(document["spans"]["id"], time.time())
        query = {"cursor": document["cursor"], "trace": trace_id, "t0": document["t0_ns"]}
        with httpx.stream("GET", f"{viewer.base}/events", params=query, timeout=120, trust_env=False) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    delta = json.loads(line.removeprefix("data: "))
                    for span_id in delta["spans"]["id"]:
                        seen.setdefault(span_id, time.time())
                    if delta["trace"]["state"] == "ended":
                        break
        asked.join()
    yield answers[0]["starts"], seen


def beside_a_program(size: Size) -> list[Figure]:
    """Requests of a busy program with and without an open page."""
    with TemporaryDirectory(prefix="nodespan-viewer-") as folder:
        store = Path(folder) / "store.db"
        SqliteStore(store).stats()
        with Viewer(store) as viewer, Program(viewer.environment) as program:

            def measure() -> dict[str, float]:
                answer = program.ask(f"busy {BUSY_S[size]}")
                return {"p99": percentile(answer["took_ms"], 99), "cpu": answer["cpu_ms"]}

            def watched() -> dict[str, float]:
                with viewer.page():
                    return measure()

            rounds = interleaved({"with": watched, "without": measure}, BUSY_ROUNDS[size], warmups=1)
    of = f"{BUSY_S[size]:.0f} s of 2 ms requests with six spans each, with and without a page that shows them"
    columns = {
        f"{name} {key}": [each[key] for each in several] for name, several in rounds.items() for key in ("p99", "cpu")
    }
    return [
        figure("p99 of a program, with / without a page", "", columns, ratio_of_rounds("with p99", "without p99"),
               "<= 1.05", of),
        figure("its CPU per request, with / without a page", "", columns, ratio_of_rounds("with cpu", "without cpu"),
               "<= 1.03", of),
    ]  # fmt: skip


def fill_trace(path: Path, spans: int) -> None:
    """One trace of nodes and model calls."""
    chance = random.Random(0)
    store = SqliteStore(path, StoreLimits(max_bytes=2**33))
    texts = [semconv.OPERATION_NAME, semconv.LANGGRAPH_NODE, semconv.NODE, semconv.WORKFLOW_NAME, semconv.STATUS]
    texts += [semconv.CONVERSATION_ID, semconv.LANGGRAPH_TASK_ID, semconv.LANGGRAPH_CHECKPOINT_NS]
    parent = chance.randbytes(8)
    for first in range(0, spans, BATCH):
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        scope.scope.name = semconv.SCOPE
        for i in range(first, min(first + BATCH, spans)):
            start_ns = 10**18 + i * 10**6 + chance.randrange(10**6)
            span = scope.spans.add(
                trace_id=TRACE_ID,
                span_id=chance.randbytes(8),
                parent_span_id=parent,
                name=f"invoke_node node-{i % 40}",
                kind=1,
                start_time_unix_nano=start_ns,
                end_time_unix_nano=start_ns + chance.randrange(10**9),
            )
            parent = span.span_id if i % 5 == 0 else parent
            for key in texts:
                text = chance.randbytes(8).hex() if key.endswith(("id", "ns")) else f"{key[:4]}-{i % 40}"
                span.attributes.add(key=key).value.string_value = text
            for key in (semconv.LANGGRAPH_STEP, semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS):
                span.attributes.add(key=key).value.int_value = chance.randrange(4000)
            span.attributes.add(key=semconv.MIRROR_KEYS["duration_s"]).value.double_value = chance.random()
        store.append(Encoded(request.SerializeToString(), len(scope.spans)), None)
    store.close()


def timed(work: Callable[[], object]) -> float:
    """How long it takes, in ms."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def _median(name: str) -> Any:
    return lambda columns: percentile(columns[name], 50)
