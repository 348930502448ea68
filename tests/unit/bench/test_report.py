"""The figures in docs/performance.md are those that were kept."""

from __future__ import annotations

from bench import report


def test_the_page_has_the_stored_figures() -> None:
    assert report.PAGE.read_text() == report.page()


def test_a_goal_that_is_not_reached_is_reported() -> None:
    figure = {"name": "x", "value": 1234.5, "unit": "ms", "goal": "<= 20", "low": 0.01234, "high": 2.0}
    said = {"title": "T", "size": "normal", "seconds": 1, "when": "now", "commit": "c", "machine": "m", "versions": {}}
    kept = {"t": {**said, "figures": [{**figure, "of": "this", "is_met": False}]}}
    assert "| x | 1,234 ms | 0.0123 to 2 | <= 20 | **no** |" in report.as_markdown(kept)
