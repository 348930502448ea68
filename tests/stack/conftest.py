"""The stack, started once for all tests, and its traffic."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stack_binaries import binaries, can_be_had
from stack_local import LocalStack, Ports

from stack_backends import Jaeger, Prometheus

HERE = Path(__file__).parent
TIMEOUT_S = 600  # the first test waits for the stack and its traffic, on a machine that may be busy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """The programs of the stack, built if they are not in the cache.

    Skips with the reason where they are unavailable; in CI that is a failure.
    """
    if not can_be_had():
        message = "NOTHING of the stack is tested: its programs come from go or docker, and neither is here."
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return binaries()


@pytest.fixture(scope="session")
def stack(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Collector, Jaeger and Prometheus with the configs of ``collector/``, on free ports."""
    with LocalStack(programs, tmp_path_factory.mktemp("stack"), Ports.free(), interval="1s") as stack:
        yield stack


@pytest.fixture(scope="session")
def jaeger(stack: LocalStack) -> Jaeger:
    return Jaeger(stack.jaeger)


@pytest.fixture(scope="session")
def prometheus(stack: LocalStack) -> Prometheus:
    return Prometheus(stack.prometheus)


@pytest.fixture(scope="session")
def run_program(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs Python with these arguments, its telemetry going to the stack; returns what it printed."""

    def run(*arguments: str, **environment: str) -> str:
        folder = tmp_path_factory.mktemp("program")
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NODESPAN_"))}
        given = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": stack.endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "NODESPAN_STORE": str(folder / "store.db"),
        }
        ran = subprocess.run(
            [sys.executable, *arguments],
            env={**ours, **given, **environment},
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S / 2,
        )
        assert ran.returncode == 0, f"{arguments} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
        return ran.stdout

    return run


@pytest.fixture(scope="session")
def seeded(run_program: Callable[..., str], smollm2: Path) -> dict[str, Any]:
    """The printed result of ``seeded_run.py``; its telemetry may still be in transit."""
    return json.loads(run_program(str(HERE / "seeded_run.py"), str(smollm2)).splitlines()[-1])


@pytest.fixture(scope="session")
def run_demo(run_program: Callable[..., str]) -> Callable[..., str]:
    """Runs `nodespan demo` and returns its trace id."""

    def run(*arguments: str, **environment: str) -> str:
        printed = run_program("-c", "from nodespan.cli import main; main()", "demo", *arguments, **environment)
        found = re.search(r"/trace/([0-9a-f]{32})", printed)
        assert found is not None, printed
        return found[1]

    return run


@pytest.fixture(scope="session")
def demo(run_demo: Callable[..., str]) -> str:
    """The trace id of a `nodespan demo`."""
    return run_demo()
