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

# Scraped by Prometheus: the metric of reachable targets, and the Collector's own metrics.
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
    """The Collector's series: Jaeger consists of the same parts and has the same metrics."""
    return f'{metric}{{job="otel-collector"}}'


def _rate(counter: str) -> str:
    """For counters of long-lived programs, for which rate() is exact enough."""
    return f"sum(rate({_of_collector(counter)}[{WINDOW}]))"


def _numbers() -> list[Panel]:
    overflown = 'count({service_name="$service", otel_metric_overflow="true"})'
    return [
        number(
            "Are Collector, Jaeger and Prometheus up?",
            "Whether Prometheus reached them at its last scrape. An unreachable part stores and shows no new data.",
            COUNT,
            query(f"min by (job) ({UP})", "{{job}}"),
            limits=bad_below(1),
            words={0: "down", 1: "up"},
            links=LINKS,
        ),
        number(
            "How many spans wait to be sent?",
            "Spans in the store on the program's machine that the Collector has not accepted. They are not lost; "
            "`nodespan doctor` shows the reason.",
            COUNT,
            query(total(series(OUTBOX_SPANS))),
            limits=bad_above(1_000, 50_000),
            links=LINKS,
        ),
        number(
            "For how long has the oldest waited?",
            "More than a minute means that the Collector is unreachable, or accepts fewer spans than are recorded.",
            SECONDS,
            query(f"max({series(OUTBOX_AGE)})"),
            limits=bad_above(60, 600),
            links=LINKS,
        ),
        number(
            "Has a metric too many label values?",
            "Series in which the SDK sums values beyond its limit of label sets (2,000 per metric): the panels "
            "have exact totals, but do not separate these values.",
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
            "Are the spans exported from the program?",
            "In the window before each point: ended spans that were stored, and spans that the Collector accepted. "
            "The second follows the first within seconds.",
            COUNT,
            query(counted(SPANS_PROCESSED, "", where(ERROR_TYPE, "")), "stored"),
            query(counted(SPANS_EXPORTED, "", where(ERROR_TYPE, "")), "exported"),
            links=LINKS,
        ),
        graph(
            "Which spans were dropped, and why?",
            "In the window before each point: dropped in the program, or refused by the Collector, by reason. Each "
            "one is missing in Jaeger permanently.",
            COUNT,
            query(none_of(counted(SPANS_PROCESSED, "", is_given(ERROR_TYPE)), ended), "dropped"),
            query(none_of(counted(SPANS_EXPORTED, "", is_given(ERROR_TYPE)), ended), "refused"),
            query(counted(SPANS_PROCESSED, "", is_given(ERROR_TYPE), by=[ERROR_TYPE]), legend(ERROR_TYPE)),
            limits=bad_from(1),
            bars=True,
            links=LINKS,
        ),
        graph(
            "Does nodespan have internal errors?",
            "Internal errors of nodespan in the window before each point. They are not raised in the program; data of "
            "failed operations are missing. The program's log has each kind once.",
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
            "Does the Collector forward the received spans?",
            "Spans per second of all programs. Sent is below received while Jaeger is unavailable, and above it later.",
            PER_S,
            query(_rate(ACCEPTED), "received"),
            query(_rate(SENT), "sent"),
            links=LINKS,
        ),
        graph(
            "How full are the Collector's queues?",
            "Share of each exporter's queue on disk that is in use. The Collector refuses data when a queue is full.",
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
            "Spans per second: refused because memory is short (programs send them again), not queued "
            "because the queue is full, or dropped by an exporter.",
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
    """The path of spans from the program to the stores."""
    return board(
        "nodespan-telemetry",
        "Does the telemetry arrive, and if not, where does it stop?",
        ("service",),
        [(4, _numbers()), (8, _program()), (8, _collector())],
    )
