"""A program of the load: python program.py FOLDER. It runs LangGraph workflows and exports to the endpoint in OTEL_*.

It reads commands from standard input and prints one line of JSON for each:

    run PHASE PAUSE_S FAIL_EVERY   run workflows, PAUSE_S apart, until the next line, and deliver
    end                            shut down and exit

Each FAIL_EVERYth workflow fails (0: none). After each workflow the program waits until nodespan has reported the spans
as stored, and only then appends a line to ``FOLDER/PHASE-<pid>.ids``: trace id, ``ok`` or ``failed``, the spans' ids.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import nodespan
from nodespan.telemetry import DeliveryReport, Telemetry

NODES = ("plan", "search", "read", "draft", "review", "revise", "check", "answer")
CALLS_PER_NODE = 5
STORED_S = 60.0
DELIVERED_S = 180.0
POLL_S = 0.02


class State(TypedDict):
    """The workflow's state: how many nodes have run, and after how many one fails."""

    step: int
    fail_at: int


class Recorder(SpanProcessor):
    """The ids of all ended spans, by trace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: dict[str, list[str]] = {}

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        assert context is not None
        with self._lock:
            self._ended.setdefault(f"{context.trace_id:032x}", []).append(f"{context.span_id:016x}")

    def take(self) -> dict[str, list[str]]:
        with self._lock:
            taken, self._ended = self._ended, {}
        return taken


def model_call(number: int) -> None:
    """A span with the attributes of a model call."""
    attributes: dict[str, str | int | float] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "small",
        "gen_ai.response.model": "small",
        "gen_ai.usage.input_tokens": 100 + number,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.request.temperature": 0.2,
        "gen_ai.conversation.id": f"conversation-{number}",
        "nodespan.queue_s": 0.001 * number,
        "nodespan.prompt_eval_s": 0.12,
        "nodespan.decode_s": 0.4,
        "nodespan.status": "ok",
    }
    with trace.get_tracer("load").start_as_current_span("chat small", attributes=attributes):
        pass


def workflow() -> Any:
    """A workflow of eight nodes with five model calls each: 49 spans."""

    def node(state: State) -> dict[str, int]:
        for number in range(CALLS_PER_NODE):
            model_call(number)
        if state["step"] == state["fail_at"]:
            raise ValueError("this workflow fails on purpose")
        return {"step": state["step"] + 1}

    graph: Any = StateGraph(State)
    for name in NODES:
        graph.add_node(name, node)
    graph.add_edge(START, NODES[0])
    for before, after in pairwise(NODES):
        graph.add_edge(before, after)
    return graph.compile(name="load")


class Load:
    """Runs workflows, and counts the spans that were reported stored."""

    def __init__(self, telemetry: Telemetry, folder: Path) -> None:
        self._telemetry = telemetry
        self._folder = folder
        self._recorder = Recorder()
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.add_span_processor(self._recorder)
        self._workflow = workflow()

    def run(self, phase: str, pause_s: float, fail_every: int, stop: threading.Event) -> dict[str, Any]:
        before = self._telemetry.force_flush(0)
        started = time.monotonic()
        cpu_started = time.process_time()
        with (self._folder / f"{phase}-{os.getpid()}.ids").open("a", buffering=1) as ids:
            workflows = 0
            while not stop.wait(pause_s):
                workflows += 1
                outcome = self._once(fails=fail_every > 0 and workflows % fail_every == 0)
                self._wait(lambda report: report.stored >= report.ended, STORED_S, "stored")
                for trace_id, spans in self._recorder.take().items():
                    ids.write(f"{trace_id} {outcome} {' '.join(spans)}\n")
        produced_s = time.monotonic() - started
        report = self._wait(lambda report: report.waiting == 0, DELIVERED_S, "delivered")
        return {
            "workflows": workflows,
            "ended": report.ended - before.ended,
            "stored": report.stored - before.stored,
            "exported": report.exported - before.exported,
            "waiting": report.waiting,
            "dropped": report.dropped,
            "produced_s": produced_s,
            "delivered_s": time.monotonic() - started,
            "cpu_s": time.process_time() - cpu_started,
        }

    def _once(self, *, fails: bool) -> str:
        try:
            self._workflow.invoke({"step": 0, "fail_at": len(NODES) // 2 if fails else len(NODES)})
        except ValueError:
            return "failed"
        return "ok"

    def _wait(self, holds: Any, patience_s: float, what: str) -> DeliveryReport:
        deadline = time.monotonic() + patience_s
        while not holds(report := self._telemetry.force_flush(POLL_S)):
            if time.monotonic() > deadline:
                raise SystemExit(f"not {what} after {patience_s} s: {report}")
            time.sleep(POLL_S)
        return report


def answer(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    """Do what standard input commands until its end."""
    with nodespan.configure() as telemetry:
        nodespan.instrument()
        load = Load(telemetry, folder)
        answer({"pid": os.getpid()})
        for line in sys.stdin:
            command, *arguments = line.split()
            if command != "run":
                break
            stop = threading.Event()
            threading.Thread(target=lambda stop=stop: (sys.stdin.readline(), stop.set()), daemon=True).start()
            answer(load.run(arguments[0], float(arguments[1]), int(arguments[2]), stop))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
