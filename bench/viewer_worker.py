"""A program that works and records: ``python -m bench.viewer_worker`` reads a command a line, answers a JSON a line.

``busy SECONDS``: iterations of 2 ms of work with six spans each; times of all iterations in ms, and the CPU they took.
``nodes COUNT``: a run with so many nodes of 0.25 s; trace id, and each node's span id and start in Unix seconds.
"""

from __future__ import annotations

import json
import sys
import time

from opentelemetry import trace

import nodespan

WORK_S = 0.002
NODE_S = 0.25
SPANS = 5


def busy(tracer: trace.Tracer, seconds: float) -> dict[str, object]:
    took_ms: list[float] = []
    until = time.perf_counter() + seconds
    cpu = time.process_time()
    while time.perf_counter() < until:
        started = time.perf_counter()
        with tracer.start_as_current_span("request"):
            for i in range(SPANS):
                with tracer.start_as_current_span(f"step {i}", attributes={"size": i, "name": "x" * 50}):
                    end = time.perf_counter() + WORK_S / SPANS
                    while time.perf_counter() < end:
                        pass
        took_ms.append((time.perf_counter() - started) * 1e3)
        time.sleep(WORK_S)
    return {"took_ms": took_ms, "cpu_ms": (time.process_time() - cpu) * 1e3 / len(took_ms)}


def nodes(tracer: trace.Tracer, count: int) -> dict[str, object]:
    starts: dict[str, float] = {}
    with tracer.start_as_current_span("run"):
        for i in range(count):
            with tracer.start_as_current_span(f"node {i}") as span:
                starts[f"{span.get_span_context().span_id:016x}"] = time.time()
                time.sleep(NODE_S)
    return {"starts": starts}


def main() -> None:
    with nodespan.configure("bench"):
        tracer = trace.get_tracer("bench")
        for line in sys.stdin:
            command, value = line.split()
            answer = busy(tracer, float(value)) if command == "busy" else nodes(tracer, int(value))
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
