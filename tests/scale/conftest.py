"""The chain and its load, started once for all tests of scale, and the table of what they counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scale_chain import Chain
from stack_binaries import missing_for_scale, scale_binaries

from scale_load import Count, Programs

HERE = Path(__file__).parent
TIMEOUT_S = 900  # the first test waits for the chain, on a machine that may be busy
LINES: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LINES:
        terminalreporter.section("measured at scale")
        for line in LINES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def table() -> list[str]:
    """Lines that are printed at the end of the run."""
    return LINES


@pytest.fixture(scope="session")
def binaries() -> dict[str, Path]:
    """The programs of the chain, built or fetched if they are not in the cache.

    Skips where a command is missing, and names it; in CI that is a failure.
    """
    if missing := missing_for_scale():
        message = (
            f"NOTHING of docs/scale.md is tested: not installed: {', '.join(missing)}. Install go, Java and Maven."
        )
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return scale_binaries()


@pytest.fixture(scope="session")
def chain(binaries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Agent, Kafka, two gateways, Jaeger and Prometheus, on free ports."""
    with Chain(binaries, tmp_path_factory.mktemp("chain")) as chain:
        yield chain


@pytest.fixture(scope="session")
def programs(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Eight programs that send to the chain's agent."""
    programs = Programs(chain.endpoint, tmp_path_factory.mktemp("programs"))
    try:
        programs.start()
        yield programs
    finally:
        programs.stop()


@pytest.fixture(scope="session")
def count(chain: Chain) -> Count:
    return Count(chain)
