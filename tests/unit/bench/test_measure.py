"""Statistics of the benchmarks' rounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.measure import Figure, added, figure, interleaved, median, percentile


def test_a_slowdown_of_all_variants_is_not_attributed_to_one() -> None:
    noise = [0.0, 50.0, 3.0, 90.0, 7.0] * 10
    columns = {"bare": [100 + more for more in noise], "ours": [110 + more for more in noise]}
    found = figure("added", "µs", columns, added("ours", "bare"), "<= 8")
    assert (found.value, found.low, found.high) == (10, 10, 10)
    assert found.is_met is False


def test_the_interval_is_the_spread_of_the_rounds() -> None:
    found = figure("x", "s", {"x": list(range(101))}, median("x"))
    assert found.value == 50
    assert found.low is not None
    assert found.high is not None
    assert 30 < found.low < 50 < found.high < 70


@pytest.mark.parametrize(
    ("goal", "value", "low", "is_met"),
    [
        ("<= 1.5", 1.5, None, True),
        ("<= 1.5", 1.6, None, False),
        (">= 6", 5.9, None, False),
        ("~ 0", 4.0, -1.0, True),
        ("~ 0", 4.0, 1.0, False),
        ("", 4.0, 1.0, None),
    ],
)
def test_a_goal_is_reached_or_not(goal: str, value: float, low: float | None, is_met: bool | None) -> None:
    assert Figure("x", value, "x", goal, low, value).is_met is is_met


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (95, 95), (99, 99), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), percent) == expected


def test_every_variant_is_measured_once_a_round_in_a_changing_order() -> None:
    order: list[str] = []

    def measure(name: str) -> Callable[[], int]:
        return lambda: order.append(name) or len(order)

    columns = interleaved({name: measure(name) for name in "abc"}, 10, warmups=1)
    assert {name: len(column) for name, column in columns.items()} == {"a": 10, "b": 10, "c": 10}
    rounds = {tuple(order[i : i + 3]) for i in range(3, 33, 3)}
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(rounds) > 1
