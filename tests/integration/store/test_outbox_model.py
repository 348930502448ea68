"""hypothesis drives the store against a model that is a list."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nodespan.otlp import Encoded
from nodespan.store import EXPORTED, SqliteStore, StoreLimits

MAX_BYTES = 4_000
DESTINATIONS = st.sampled_from([None, "http://a", "http://b"])
WRITERS = st.sampled_from(["first", "second"])


@dataclass
class Row:
    writer: str
    spans: int
    size: int
    destination: str | None
    is_settled: bool = False

    @property
    def is_unsent(self) -> bool:
        return self.destination is not None and not self.is_settled


class StoreMachine(RuleBasedStateMachine):
    """Two processes, each with a connection of its own, on one file."""

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory()
        path = Path(self._place.name) / "spans.db"
        self.stores = {name: SqliteStore(path, StoreLimits(max_bytes=MAX_BYTES)) for name in ("first", "second")}
        self.rows: dict[int, Row] = {}
        self.outcomes: dict[str, dict[str, int]] = {"first": {}, "second": {}}

    def count(self, writer: str, outcome: str, spans: int) -> None:
        if spans:
            of_writer = self.outcomes[writer]
            of_writer[outcome] = of_writer.get(outcome, 0) + spans

    @rule(writer=WRITERS, destination=DESTINATIONS, spans=st.integers(1, 50), size=st.integers(1, 1_500))
    def append(self, writer: str, destination: str | None, spans: int, size: int) -> None:
        batch_id = self.stores[writer].append(Encoded(b"x" * size, spans), destination, writer)
        assert batch_id > max(self.rows, default=0)
        self.rows[batch_id] = Row(writer, spans, size, destination)
        excess = sum(row.size for row in self.rows.values()) - MAX_BYTES
        if excess > 0:
            excess += MAX_BYTES / 16
            for oldest in sorted(self.rows, key=lambda i: (self.rows[i].is_unsent, i)):
                if excess <= 0:
                    break
                gone = self.rows.pop(oldest)
                excess -= gone.size
                if gone.is_unsent:
                    self.count(gone.writer, "store_full", gone.spans)

    @rule(by=WRITERS, destination=st.sampled_from(["http://a", "http://b"]), rejected=st.integers(0, 1))
    def settle_the_oldest(self, by: str, destination: str, rejected: int) -> None:
        page, _ = self.stores[by].unsent(destination)
        if not page:
            return
        oldest = page[0]
        outcomes = {EXPORTED: oldest.spans - rejected, "rejected": rejected}
        self.stores[by].settle([oldest], {outcome: spans for outcome, spans in outcomes.items() if spans})
        self.rows[oldest.id].is_settled = True
        self.count(oldest.writer, EXPORTED, oldest.spans - rejected)
        self.count(oldest.writer, "rejected", rejected)

    @rule(by=WRITERS, source=DESTINATIONS, destination=st.sampled_from(["http://a", "http://b"]))
    def readdress(self, by: str, source: str | None, destination: str) -> None:
        self.stores[by].readdress(source, destination, "label")
        for row in self.rows.values():
            if not row.is_settled and row.destination == source:
                row.destination = destination

    @rule(writer=WRITERS)
    def take_outcomes(self, writer: str) -> None:
        assert self.stores[writer].take_outcomes(writer) == self.outcomes[writer]
        self.outcomes[writer] = {}

    @rule(who=WRITERS)
    def close(self, who: str) -> None:
        self.stores[who].close()

    @invariant()
    def the_store_is_the_model(self) -> None:
        store = self.stores["first"]
        for destination in ("http://a", "http://b"):
            page, _ = store.unsent(destination)
            expected = [i for i, row in sorted(self.rows.items()) if row.is_unsent and row.destination == destination]
            assert [batch.id for batch in page] == expected
            assert [(b.spans, len(b.data)) for b in page] == [(self.rows[i].spans, self.rows[i].size) for i in expected]
        outbox = store.stats()
        assert outbox.spans == sum(row.spans for row in self.rows.values())
        assert outbox.size_bytes == sum(row.size for row in self.rows.values()) <= MAX_BYTES
        assert outbox.waiting == sum(row.spans for row in self.rows.values() if row.is_unsent)

    def teardown(self) -> None:
        for store in self.stores.values():
            store.close()
        self._place.cleanup()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
