"""PromQL over the table of names, so that no panel can query a metric or label that nodespan does not emit.

nodespan runs on workstations: few runs, short processes, metrics pushed once a minute. There `increase()` and `rate()`
are wrong: they do not see the value that a series begins with (the first failure of a node is none), and they
extrapolate (one run is shown as one and a half). But an OpenTelemetry process is an instance of its own, whose counters
never go back. So what a counter grew by is its last value in the window less its last value before, if it had one:
whole numbers, from the first run on. What Prometheus scrapes outlives restarts; there `rate()` is right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nodespan.semconv import NAMES, NODE, REQUEST_MODEL, WORKFLOW_NAME

WINDOW: Final = "$__rate_interval"
"""Of a point of a graph: at least four times the data source's interval."""
RANGE: Final = "$__range"
"""The time range of the board; for numbers and tables."""
BEFORE: Final = "1h"
"""Maximum age of the value before a window: after a longer sleep of a laptop, counts start from 0."""

SERVICE: Final = 'service_name="$service"'
# A metric with one of these labels is filtered by the board's variable.
VARIABLES: Final = {WORKFLOW_NAME: "$workflow", NODE: "$node", REQUEST_MODEL: "$model"}


def label(attribute: str) -> str:
    """Prometheus' name of an attribute."""
    return NAMES[attribute].name.replace(".", "_")


def where(attribute: str, value: str) -> str:
    """A matcher: the attribute has this value; the empty value matches an absent attribute."""
    return f'{label(attribute)}="{value}"'


def is_given(attribute: str) -> str:
    """A matcher: the attribute is present."""
    return f'{label(attribute)}!=""'


def series(metric: str, part: str = "", *matchers: str) -> str:
    """The selector of a metric, or of a part of a histogram, with the board's variables."""
    chosen = [f'{label(name)}=~"{VARIABLES[name]}"' for name in NAMES[metric].labels if name in VARIABLES]
    name = NAMES[metric].prometheus_name + (f"_{part}" if part else "")
    return f"{name}{{{', '.join([SERVICE, *chosen, *matchers])}}}"


def total(expression: str, by: Iterable[str] = ()) -> str:
    """The sum over processes, grouped by these attributes."""
    grouping = ", ".join(map(label, by))
    return f"sum by ({grouping}) ({expression})" if grouping else f"sum({expression})"


def greatest(expression: str, by: Iterable[str]) -> str:
    """The maximum over processes, grouped by these attributes."""
    return f"max by ({', '.join(map(label, by))}) ({expression})"


def grown(selector: str, window: str) -> str:
    """The exact increase of each counter in the window."""
    now = f"last_over_time({selector}[{window}])"
    return f"{now} - (last_over_time({selector}[{BEFORE}] offset {window}) or 0 * {now})"


def counted(metric: str, part: str = "", *matchers: str, by: Iterable[str] = (), window: str = WINDOW) -> str:
    """The increase of a counter, or of a part of a histogram, in the window."""
    return total(grown(series(metric, part, *matchers), window), by)


def none_of(some: str, whole: str) -> str:
    """``some``; 0 if only the whole has data; no data if neither has."""
    return f"({some} or 0 * {whole})"


def share(some: str, whole: str) -> str:
    """The share of ``some`` in the whole; no data while the whole is 0."""
    return f"{none_of(some, whole)} / ({whole} > 0)"


def ratio(sum_of: str, sum_by: str) -> str:
    """A ratio of sums: a speed in which a long call weighs more than a short one."""
    return f"{sum_of} / ({sum_by} > 0)"


def buckets(metric: str, by: Iterable[str] = (), window: str = WINDOW) -> str:
    """The increase of each bucket of a histogram in the window."""
    return f"sum by ({', '.join(['le', *map(label, by)])}) ({grown(series(metric, 'bucket'), window)})"


def quantile(q: float, metric: str, by: Iterable[str] = (), window: str = WINDOW) -> str:
    """A quantile of a histogram; no data while nothing was recorded."""
    return f"histogram_quantile({q}, {buckets(metric, by, window)})"


def legend(*attributes: str) -> str:
    """The name of a line: the values of these attributes."""
    return " ".join(f"{{{{{label(attribute)}}}}}" for attribute in attributes)
