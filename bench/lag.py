"""Time from a span's end until it is stored, after which a kill of the process cannot lose it."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry import trace

import nodespan
from bench.measure import Figure, Size, figure, percentile
from nodespan.delivery.processor import WRITE_INTERVAL_S
from nodespan.otlp import decode_batch
from nodespan.store import SqliteStore

TITLE = "From a span's end to the store"
SECONDS = {"quick": 2, "normal": 15, "full": 60}
SPANS_PER_S = 300
GOAL_MS = 2 * WRITE_INTERVAL_S * 1e3


def run(size: Size) -> list[Figure]:
    stored: list[tuple[int, bytes]] = []
    append = SqliteStore.append

    def timed(self: SqliteStore, batch: Any, *args: Any, **kwargs: Any) -> Any:
        result = append(self, batch, *args, **kwargs)
        stored.append((time.time_ns(), batch.data))
        return result

    SqliteStore.append = timed
    with nodespan.configure("bench") as telemetry:
        tracer = trace.get_tracer("bench")
        spans = SECONDS[size] * SPANS_PER_S
        started = time.perf_counter()
        for i in range(spans):
            tracer.start_span("work").end()
            time.sleep(max(started + (i + 1) / SPANS_PER_S - time.perf_counter(), 0))
        assert telemetry.force_flush()
    lags_ms = [(at_ns - span.end_ns) / 1e6 for at_ns, data in stored for span in decode_batch(data)]
    assert len(lags_ms) == spans, f"{len(lags_ms)} of {spans} spans were stored"
    # A round has the spans of one second: spans of one batch have correlated lags.
    rounds = {"lag": [lags_ms[i : i + SPANS_PER_S] for i in range(0, spans, SPANS_PER_S)]}
    of = f"a second with {SPANS_PER_S} spans; the write interval is {WRITE_INTERVAL_S * 1e3:.0f} ms"

    def lag(percent: float) -> Any:
        return lambda columns: percentile([each for second in columns["lag"] for each in second], percent)

    return [
        figure("lag, p50", "ms", rounds, lag(50), f"<= {GOAL_MS:.0f}", of),
        figure("lag, p99", "ms", rounds, lag(99), f"<= {GOAL_MS:.0f}", of),
    ]
