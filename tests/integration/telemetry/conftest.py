"""Shared by the tests of delivery: distinguishable spans, and the figures of their outcomes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from opentelemetry import trace

from nodespan.otlp import SpanRecord
from nodespan.store import SqliteStore, StoreReader, store_path


@pytest.fixture
def make_spans() -> Callable[..., list[str]]:
    """Makes a number of spans and returns their names."""

    def make(number: int, name: str = "work", **attributes: Any) -> list[str]:
        tracer = trace.get_tracer("test")
        names = [f"{name} {index}" for index in range(number)]
        for each in names:
            tracer.start_span(each, attributes=attributes).end()
        return names

    return make


@pytest.fixture
def figures(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Counts the received and the sent spans, and adds the numbers to the test's report."""

    def count(sent: Iterable[str], received: Iterable[SpanRecord], **others: object) -> dict[str, Any]:
        names = list(sent)
        arrived = Counter(span.name for span in received)
        found = {
            "sent": len(names),
            "received": arrived.total(),
            "lost": sum(name not in arrived for name in names),
            "duplicates": sum(times - 1 for times in arrived.values()),
            **others,
        }
        record_property("figures", json.dumps(found))
        if path := os.environ.get("TEST_FIGURES"):
            with Path(path).open("a") as file:
                file.write(json.dumps({"test": request.node.name, **found}) + "\n")
        return found

    return count


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program in a process of its own, in this environment; our errors do not end it."""

    def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env={**os.environ, "NODESPAN_RAISE_INTERNAL_ERRORS": "0", **environment},
        )

    return run


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a key and certificate for 127.0.0.1, of the authority that signed it, and of one that did not."""
    place = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    paths = {name: str(place / name) for name in ("key", "chain", "authority", "stranger")}
    issued.private_key_pem.write_to_path(paths["key"])
    for pem in issued.cert_chain_pems:
        pem.write_to_path(paths["chain"], append=True)
    authority.cert_pem.write_to_path(paths["authority"])
    stranger.cert_pem.write_to_path(paths["stranger"])
    return paths


@pytest.fixture
def reader() -> Iterator[StoreReader]:
    """Reads the test's store."""
    with StoreReader(SqliteStore(store_path())) as reader:
        yield reader
