"""A busy program: ``python -m bench.viewer_worker`` reads seconds from lines and prints a line of JSON for each.

Each request has 2 ms of work with six spans. The result has the time of each request and the CPU time per request, in
ms.
"""

from __future__ import annotations

import json
import sys
import time

from opentelemetry import trace

import nodespan

WORK_S = 0.002
SPANS = 5


def busy(tracer: trace.Tracer, seconds: float) -> dict[str, object]:
    took_ms: list[float] = []
    until = time.perf_counter() + seconds
    cpu_s = time.process_time()
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
    return {"took_ms": took_ms, "cpu_ms": (time.process_time() - cpu_s) * 1e3 / len(took_ms)}


def main() -> None:
    with nodespan.configure("bench"):
        tracer = trace.get_tracer("bench")
        for line in sys.stdin:
            print(json.dumps(busy(tracer, float(line))), flush=True)


if __name__ == "__main__":
    main()
