"""The board of the telemetry itself: whether the other boards can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashboards.panels import (
    COUNT,
    PER_S,
    SECONDS,
    SHARE,
    Panel,
    bad_above,
    bad_below,
    bad_from,
    board,
    board_link,
    graph,
    number,
    query,
    traces,
)
from dashboards.queries import WINDOW, counted, is_given, legend, none_of, ratio, series, total, where
from nodespan.semconv import (
    ERROR_TYPE,
    OUTBOX_AGE,
    OUTBOX_SPANS,
    SPANS_EXPORTED,
    SPANS_PROCESSED,
    TELEMETRY_ERROR_KIND,
    TELEMETRY_ERRORS,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

# What Prometheus scrapes: its own word for what answers, and the Collector's metrics of itself.
UP: Final = 'up{job=~"otel-collector|jaeger|prometheus"}'
ACCEPTED: Final = "otelcol_receiver_accepted_spans_total"
REFUSED: Final = "otelcol_receiver_refused_spans_total"
SENT: Final = "otelcol_exporter_sent_spans_total"
FAILED: Final = "otelcol_exporter_send_failed_spans_total"
NOT_QUEUED: Final = "otelcol_exporter_enqueue_failed_spans_total"
QUEUE_SIZE: Final = "otelcol_exporter_queue_size"
QUEUE_CAPACITY: Final = "otelcol_exporter_queue_capacity"
LINKS: Final = (traces("What arrived in Jaeger"), board_link("Workflows at this time", "nodespan-workflows"))


def _of_collector(metric: str) -> str:
    """Jaeger is built of the Collector's parts and has the same metrics."""
    return f'{metric}{{job="otel-collector"}}'


def _rate(counter: str) -> str:
    """Of what outlives its own restarts and grows all the time, where rate() is right."""
    return f"sum(rate({_of_collector(counter)}[{WINDOW}]))"


def _numbers() -> list[Panel]:
    overflown = 'count({service_name="$service", otel_metric_overflow="true"})'
    return [
        number(
            "Are Collector, Jaeger and Prometheus up?",
            "Whether Prometheus reached them at its last scrape. What cannot be reached stores and shows nothing new.",
            COUNT,
            query(f"min by (job) ({UP})", "{{job}}"),
            limits=bad_below(1),
            words={0: "down", 1: "up"},
            links=LINKS,
        ),
        number(
            "How many spans wait to be sent?",
            "Spans in the store on the program's machine that the Collector has not taken yet. They are not lost; "
            "`nodespan doctor` shows the reason.",
            COUNT,
            query(total(series(OUTBOX_SPANS))),
            limits=bad_above(1_000, 50_000),
            links=LINKS,
        ),
        number(
            "For how long has the oldest waited?",
            "More than a minute means that the Collector is not reached, or takes less than arrives.",
            SECONDS,
            query(f"max({series(OUTBOX_AGE)})"),
            limits=bad_above(60, 600),
            links=LINKS,
        ),
        number(
            "Has a metric too many label values?",
            "Series into which the SDK threw what exceeded its limit of label values (2,000 per metric): the panels "
            "above them count right, but no longer apart.",
            COUNT,
            query(none_of(overflown, total(series(SPANS_PROCESSED)))),
            limits=bad_from(1),
            links=LINKS,
        ),
    ]


def _program() -> list[Panel]:
    ended = counted(SPANS_PROCESSED)
    return [
        graph(
            "Do the spans get out of the program?",
            "In the window before each point: spans that ended and were stored, and spans that the Collector took. "
            "The second follows the first within seconds.",
            COUNT,
            query(counted(SPANS_PROCESSED, "", where(ERROR_TYPE, "")), "stored"),
            query(counted(SPANS_EXPORTED, "", where(ERROR_TYPE, "")), "exported"),
            links=LINKS,
        ),
        graph(
            "Which spans were dropped, and why?",
            "In the window before each point: dropped in the program, or refused by the Collector, by reason. Each "
            "one is missing in Jaeger for good.",
            COUNT,
            query(none_of(counted(SPANS_PROCESSED, "", is_given(ERROR_TYPE)), ended), "dropped"),
            query(none_of(counted(SPANS_EXPORTED, "", is_given(ERROR_TYPE)), ended), "refused"),
            query(counted(SPANS_PROCESSED, "", is_given(ERROR_TYPE), by=[ERROR_TYPE]), legend(ERROR_TYPE)),
            limits=bad_from(1),
            bars=True,
            links=LINKS,
        ),
        graph(
            "Does nodespan itself make errors?",
            "Errors inside nodespan in the window before each point. The program never sees them; what they were in "
            "the middle of is missing. They are in the program's log once per kind.",
            COUNT,
            query(none_of(counted(TELEMETRY_ERRORS), ended), "all"),
            query(counted(TELEMETRY_ERRORS, by=[TELEMETRY_ERROR_KIND]), legend(TELEMETRY_ERROR_KIND)),
            limits=bad_from(1),
            bars=True,
            links=LINKS,
        ),
    ]


def _collector() -> list[Panel]:
    per_exporter = "max by (exporter, data_type)"
    return [
        graph(
            "Does the Collector pass on what it takes?",
            "Spans a second from all programs. Sent is behind received while Jaeger is away, and above it afterwards.",
            PER_S,
            query(_rate(ACCEPTED), "received"),
            query(_rate(SENT), "sent"),
            links=LINKS,
        ),
        graph(
            "How full are the Collector's queues?",
            "Of what the queue of each exporter may hold on disk. A full queue makes the Collector refuse.",
            SHARE,
            query(
                ratio(*(f"{per_exporter} ({_of_collector(metric)})" for metric in (QUEUE_SIZE, QUEUE_CAPACITY))),
                "{{exporter}} {{data_type}}",
            ),
            limits=bad_above(0.5, 0.8),
            links=LINKS,
        ),
        graph(
            "Does the Collector refuse or lose spans?",
            "Spans a second: refused at the door because memory is short (programs send them again), not queued "
            "because the queue is full, or given up by an exporter.",
            PER_S,
            *(
                query(none_of(_rate(counter), _rate(ACCEPTED)), words)
                for words, counter in (("refused", REFUSED), ("not queued", NOT_QUEUED), ("given up", FAILED))
            ),
            limits=bad_from(0.001),
            links=LINKS,
        ),
    ]


def telemetry() -> Dashboard:
    """Is all there, on the way from the program to the stores?"""
    return board(
        "nodespan-telemetry",
        "Does the telemetry arrive, and if not, where does it stop?",
        ("service",),
        [(4, _numbers()), (8, _program()), (8, _collector())],
    )
