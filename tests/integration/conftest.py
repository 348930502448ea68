"""Fixtures and settings of every test here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from nodespan.cli import main
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
        entries.append((entry, execution.scope.span))
        return entry

    monkeypatch.setattr(NodeExecution, "done", watched)
    yield
    for entry, span in entries:
        if isinstance(span, ReadableSpan):  # there is one, and it was sampled
            assert mirror_of(span) == {key: value for key, value in entry.items() if key not in STATE_ONLY_KEYS}
            assert entry["span_id"] == f"{span.context.span_id:016x}"


class Cli:
    """``cli("traces", "--json")`` runs a command; what it left is in ``code``, ``out`` and ``err``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.code: object = None
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> Cli:
        self._monkeypatch.setattr(sys, "argv", ["nodespan", *arguments])
        self._capsys.readouterr()
        try:
            main()
            self.code = 0
        except SystemExit as left:
            self.code = left.code or 0
        self.out, self.err = self._capsys.readouterr()
        return self

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def cli(monkeypatch, capsys):
    return Cli(monkeypatch, capsys)
