"""The speed of the page of `nodespan ui` in a browser: `python -m bench page`. Requires chromium (`make browser`)."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from playwright.sync_api import Browser, Page, sync_playwright

from bench.measure import Figure, Size, percentile
from bench.viewer import Viewer
from nodespan import semconv
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore, StoreLimits

TITLE = "The page of nodespan ui, in a browser"
SPANS = {"quick": 2_000, "normal": 100_000, "full": 500_000}
ROUNDS = {"quick": 2, "normal": 7, "full": 15}
STEPS = {"quick": 50, "normal": 400, "full": 1_000}
EXECUTIONS = {"quick": 10, "normal": 60, "full": 300}
SPANS_PER_NODE = 5
BATCH = 10_000
VIEWPORT = {"width": 1280, "height": 800}

CLICK = """async () => {
    const link = document.querySelector('tr[data-id] a.title');
    const began = performance.now();
    link.click();
    while (!document.querySelector('.names .row')) await new Promise((done) => requestAnimationFrame(done));
    await new Promise((done) => requestAnimationFrame(done));
    return performance.now() - began;
}"""
SCROLL = """async (steps) => {
    const scroller = document.querySelector('.scroller');
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const took = [];
    let last = await frame();
    for (let i = 0; i < steps; i++) {
        scroller.scrollTop = ((i * 7919) % steps) / steps * (scroller.scrollHeight - scroller.clientHeight);
        const now = await frame();
        took.push(now - last);
        last = now;
    }
    return took;
}"""
WATCH = """() => {
    window.seen = {};
    const look = () => {
        const now = performance.timeOrigin + performance.now();
        for (const row of document.querySelectorAll('.names .row:not([hidden])')) seen[row.dataset.id] ??= now;
        requestAnimationFrame(look);
    };
    look();
}"""


def run(size: Size) -> list[Figure]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "page"))
    import chromium

    executable = chromium.find()
    if executable is None:
        raise SystemExit("There is no chromium. Type: make browser")
    with TemporaryDirectory(prefix="nodespan-page-") as folder, sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        large = Path(folder) / "large.db"
        spans = fill(large, SPANS[size])
        figures = first_run(
            browser, large, ROUNDS[size], f"a store with a run of {spans:,} spans, in chromium {browser.version}"
        )
        with Viewer(large) as viewer:
            page = browser.new_page(viewport=VIEWPORT)
            figures += [*click(page, viewer, ROUNDS[size], spans), *scroll(page, STEPS[size], spans)]
            page.close()
        figures.append(seen(browser, Path(folder) / "live.db", EXECUTIONS[size]))
        browser.close()
    return figures


def first_run(browser: Browser, store: Path, rounds: int, of: str) -> list[Figure]:
    """From the start of the command to the first row in a running browser."""
    took: list[float] = []
    cpu: list[float] = []
    for _ in range(rounds):
        page = browser.new_page(viewport=VIEWPORT)
        thread_s = thread_time(page)
        began = time.perf_counter()
        with Viewer(store) as viewer:
            page.goto(viewer.base)
            page.locator("tr[data-id]").first.wait_for()
            took.append(time.perf_counter() - began)
            cpu.append(viewer.cpu_s() + thread_s())
            page.close()
    return [
        Figure(
            "command to first run on screen, median", statistics.median(took), "s", "<= 1", min(took), max(took), of
        ),
        Figure(
            "CPU of the first run, server and page's thread", statistics.median(cpu), "s", "", min(cpu), max(cpu), of
        ),
    ]


def click(page: Page, viewer: Viewer, rounds: int, spans: int) -> list[Figure]:
    """From the click on a run to its first drawn frame."""
    took: list[float] = []
    cpu: list[float] = []
    thread_s = thread_time(page)
    for _ in range(rounds):
        page.goto(viewer.base)
        page.locator("tr[data-id]").first.wait_for()
        before_s = viewer.cpu_s() + thread_s()
        took.append(page.evaluate(CLICK) / 1e3)
        cpu.append(viewer.cpu_s() + thread_s() - before_s)
    of = f"{rounds} clicks on a run of {spans:,} spans; low and high are the fastest and the slowest"
    return [
        Figure("click to drawn, median", statistics.median(took), "s", "<= 1.5", min(took), max(took), of),
        Figure("CPU of a click, server and page's thread", statistics.median(cpu), "s", "", min(cpu), max(cpu), of),
    ]


def scroll(page: Page, steps: int, spans: int) -> list[Figure]:
    """Time from frame to frame while the whole run, with all rows open, is scrolled by jumps."""
    page.keyboard.press("a")
    page.wait_for_timeout(500)
    thread_s = thread_time(page)
    before_s = thread_s()
    took = page.evaluate(SCROLL, steps)
    cpu_ms = (thread_s() - before_s) * 1e3 / steps
    of = f"{steps} jumps in {spans:,} rows"
    return [
        Figure("scroll step, p99", percentile(took, 99), "ms", "<= 33", of=of),
        Figure("scroll step, CPU of the page's thread, mean", cpu_ms, "ms", of=of),
    ]


def thread_time(page: Page) -> Callable[[], float]:
    """CPU time of the thread that runs the page's scripts, in seconds."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    return read


def seen(browser: Browser, store: Path, executions: int) -> Figure:
    """From the start of a node of a LangGraph program in another process to its visible row."""
    with Viewer(store) as viewer:
        page = browser.new_page(viewport=VIEWPORT)
        page.goto(viewer.base)
        command = [sys.executable, "-m", "bench.page_worker", str(executions)]
        with subprocess.Popen(command, env={**os.environ, "NODESPAN_STORE": str(store)}) as program:
            page.locator("tr.is-running a.title").first.click(timeout=60_000)
            page.locator(".names .row").first.wait_for()
            page.evaluate(WATCH)
            program.wait()
        page.wait_for_timeout(1_000)
        times: dict[str, float] = page.evaluate("() => seen")
        document: dict[str, Any] = page.evaluate(
            "() => fetch(location.pathname + '.json').then((answer) => answer.json())"
        )
        page.close()
    spans, strings, t0_ns = document["spans"], document["strings"], int(document["t0_ns"])
    lags: list[float] = []
    for span_id, operation, start_us in zip(spans["id"], spans["operation"], spans["start"], strict=True):
        if strings[operation] == semconv.INVOKE_NODE and span_id in times:
            lags.append(times[span_id] - (t0_ns / 1e6 + start_us / 1e3))
    lags = sorted(lags)[: len(lags) - 2]  # the nodes that ran when the page was opened
    return Figure(
        f"start of a node to its display, p95 of {len(lags)}",
        percentile(lags, 95),
        "ms",
        "<= 300",
        of="nodes of 0.3 s each",
    )


def fill(path: Path, spans: int) -> int:
    """Stores one run of about this number of spans: a loop whose nodes call a model."""
    store = SqliteStore(path, StoreLimits(max_bytes=2**33))
    chance = random.Random(1)
    trace_id, root = chance.randbytes(16), chance.randbytes(8)
    nodes = spans // SPANS_PER_NODE
    start_ns = time.time_ns() - nodes * 10**6
    request = ExportTraceServiceRequest()
    rows: list[tuple[bytes, bytes, str, int, int, dict[str, Any]]] = [
        (root, b"", "invoke_workflow large", 0, nodes * 10**6, {semconv.OPERATION_NAME: semconv.INVOKE_WORKFLOW})
    ]
    for i in range(nodes):
        rows += node(chance, root, i)
    for first in range(0, len(rows), BATCH):
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        of_resource.resource.attributes.add(key="service.name").value.string_value = "bench"
        scope = of_resource.scope_spans.add()
        batch = rows[first : first + BATCH]
        for span_id, parent, name, begin, end, attributes in batch:
            span = scope.spans.add(trace_id=trace_id, span_id=span_id, parent_span_id=parent, name=name)
            span.start_time_unix_nano, span.end_time_unix_nano = start_ns + begin, start_ns + end
            for key, value in attributes.items():
                written = span.attributes.add(key=key).value
                if isinstance(value, int):
                    written.int_value = value
                else:
                    written.string_value = value
        store.append(Encoded(request.SerializeToString(), len(batch)), None)
    store.close()
    return len(rows)


def node(chance: random.Random, root: bytes, i: int) -> list[tuple[bytes, bytes, str, int, int, dict[str, Any]]]:
    """A node execution with its model call and the phases of that."""
    name = "plan" if i % 2 else "act"
    own, model = chance.randbytes(8), chance.randbytes(8)
    begin = i * 10**6
    attributes = {
        semconv.OPERATION_NAME: semconv.INVOKE_NODE,
        semconv.LANGGRAPH_NODE: name,
        semconv.LANGGRAPH_STEP: i + 1,
    }
    usage = {semconv.OPERATION_NAME: semconv.CHAT, semconv.USAGE_INPUT_TOKENS: 400, semconv.USAGE_OUTPUT_TOKENS: 50}
    return [
        (own, root, f"{semconv.INVOKE_NODE} {name}", begin, begin + 900_000, attributes),
        (model, own, f"{semconv.CHAT} model", begin + 10_000, begin + 890_000, usage),
        (chance.randbytes(8), model, semconv.PIPELINE_QUEUE, begin + 10_000, begin + 50_000, {}),
        (chance.randbytes(8), model, semconv.LLAMA_CPP_PREFILL, begin + 50_000, begin + 300_000, {}),
        (chance.randbytes(8), model, semconv.LLAMA_CPP_DECODE, begin + 300_000, begin + 880_000, {}),
    ]
