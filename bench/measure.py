"""How the benchmarks measure: interleaved rounds, medians, and intervals from resampled rounds."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Size = Literal["quick", "normal", "full"]
Columns = Mapping[str, Sequence[Any]]
"""The results of each variant by round: a number, or a list of numbers."""
Statistic = Callable[[Columns], float]

RESAMPLES = 1000
CONFIDENCE = 0.95
LIMIT_S = 60.0
ROUNDS_MIN = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number and its goal.

    Attributes:
        goal: ``"<= 1.5"``, ``">= 6"``, or ``"~ 0"``: the interval must include 0 or less. Empty for figures that are
            only reported.
        low: Lower end of the bootstrap interval (95 %); ``None`` where there are no rounds to resample.
        of: The compared work and its amount, in words.
    """

    name: str
    value: float
    unit: str
    goal: str = ""
    low: float | None = None
    high: float | None = None
    of: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; ``None`` without one."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        if sign == "~":
            return self.low is not None and self.low <= float(bound)
        return self.value <= float(bound) if sign == "<=" else self.value >= float(bound)


def interleaved(variants: Mapping[str, Callable[[], Any]], rounds: int, *, warmups: int = 2) -> dict[str, list[Any]]:
    """Calls each variant once a round, in an order that changes from round to round.

    A temporary slowdown of the machine then affects all variants, and their order is random. On a slow machine there
    are fewer rounds, and wider intervals.
    """
    until = time.monotonic() + LIMIT_S
    for _ in range(warmups):
        for measure in variants.values():
            measure()
    gc.collect()
    gc.freeze()  # shortens the collection before each measurement
    columns: dict[str, list[Any]] = {name: [] for name in variants}
    order = random.Random(0)
    for i in range(rounds):
        if i >= ROUNDS_MIN and time.monotonic() > until:
            break
        names = list(variants)
        order.shuffle(names)
        for name in names:
            gc.collect()
            columns[name].append(variants[name]())
    gc.unfreeze()
    return columns


def added(over: str, base: str) -> Statistic:
    """Median, over the rounds, of the difference of two variants."""
    return lambda columns: statistics.median(a - b for a, b in zip(columns[over], columns[base], strict=True))


def median(name: str) -> Statistic:
    """Median of a variant."""
    return lambda columns: statistics.median(columns[name])


def ratio(above: Statistic, below: Statistic) -> Statistic:
    """One statistic as a multiple of another."""
    return lambda columns: above(columns) / below(columns)


def ratio_of_rounds(above: str, below: str) -> Statistic:
    """Median, over the rounds, of one variant as a multiple of the other."""
    return lambda columns: statistics.median(a / b for a, b in zip(columns[above], columns[below], strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that this percentage of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


def figure(name: str, unit: str, columns: Columns, statistic: Statistic, goal: str = "", of: str = "") -> Figure:
    """The statistic of the rounds, with its interval over resampled rounds."""
    rounds = len(next(iter(columns.values())))
    chance = random.Random(0)
    resampled: list[float] = []
    for _ in range(RESAMPLES):
        picked = [chance.randrange(rounds) for _ in range(rounds)]
        resampled.append(statistic({key: [column[i] for i in picked] for key, column in columns.items()}))
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = percentile(resampled, tail), percentile(resampled, 100 - tail)
    return Figure(name, statistic(columns), unit, goal, low, high, f"{rounds} rounds of {of}")
