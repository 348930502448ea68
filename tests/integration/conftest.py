"""What holds for every run in these tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from nodespan.types import STATE_ONLY_KEYS
from nodespan.workflow._execution import NodeExecution
from workflow_graphs import mirror_of


@pytest.fixture(autouse=True)
def state_and_spans_agree(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compares each entry that a node execution hands to the state with its span, key by key."""
    entries: list[tuple[dict[str, Any], Any]] = []
    done = NodeExecution.done

    def watched(execution: NodeExecution) -> dict[str, Any]:
        entry = done(execution)
        entries.append((entry, execution.owner.span))
        return entry

    monkeypatch.setattr(NodeExecution, "done", watched)
    yield
    for entry, span in entries:
        if isinstance(span, ReadableSpan):  # there is one, and it was sampled
            assert mirror_of(span) == {key: value for key, value in entry.items() if key not in STATE_ONLY_KEYS}
            assert entry["span_id"] == f"{span.context.span_id:016x}"
