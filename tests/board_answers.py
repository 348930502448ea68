"""The answers of a Prometheus API to the boards' queries, compared with the known values of the seeded run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from boards import Asked
from expected_panels import Expected, Seldom
from stack_backends import Prometheus, eventually

MARGIN_S = 30.0  # the last export is after the recorded end of the run; Prometheus accepts times in the future
Shown = dict[str, float]


def key(item: Asked) -> tuple[str, str]:
    return item.panel["title"], item.target["refId"]


class Grafana:
    """Queries Prometheus as Grafana does, with the time of the seeded run as window."""

    def __init__(self, prometheus: Prometheus, printed: dict[str, Any]) -> None:
        self.service = printed["service"]
        self.start, self.end = printed["started_at"] - 1, printed["ended_at"] + MARGIN_S
        self._prometheus = prometheus

    def expression(self, item: Asked, window_s: float | None = None) -> str:
        window = f"{round(1000 * (window_s or self.end - self.start))}ms"
        return item.expression(service=self.service, __range=window, __rate_interval=window)

    def samples(self, item: Asked) -> list[tuple[dict[str, str], float]]:
        return self._prometheus.query(self.expression(item), self.end)

    def at_the_end(self, item: Asked) -> Shown:
        return lines(self.samples(item))

    def at_their_highest(self, item: Asked) -> Shown:
        expression = self.expression(item)
        return lines(
            self._prometheus.query(f"max_over_time(({expression})[{round(self.end - self.start)}s:200ms])", self.end)
        )


def lines(samples: list[tuple[dict[str, str], float]]) -> Shown:
    return {" ".join(value for _, value in sorted(labels.items())): number for labels, number in samples}


def as_expected(shown: Shown, expected: Expected) -> bool:
    def right(number: float, wanted: float | tuple[float, float]) -> bool:
        low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        return low * (1 - 1e-9) <= number <= high * (1 + 1e-9)

    always = {name for name, wanted in expected.items() if not isinstance(wanted, Seldom)}
    is_complete = always <= shown.keys() <= expected.keys()
    return is_complete and all(right(number, expected[name]) for name, number in shown.items())


def shows(read: Callable[[], Shown], expected: Expected, item: Asked) -> None:
    shown = eventually(read, lambda shown: as_expected(shown, expected), f"{item} is {expected}")
    sys.stdout.write(f"{item}: {shown}\n")  # pytest -rP makes the table of all panels
