"""Packages that create spans import the OpenTelemetry API only; import-linter checks the other rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def lint(module: str, statement: str) -> str:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        "TID251",
        "--stdin-filename",
        f"src/nodespan/{module}",
    ]
    return subprocess.run(
        [*command, "-"], cwd=ROOT, check=False, capture_output=True, text=True, input=statement
    ).stdout


@pytest.mark.parametrize("package", ["spans", "runner", "instrumentation/langgraph", "workflow"])
@pytest.mark.parametrize(
    "statement",
    [
        "from opentelemetry.sdk.trace import TracerProvider\n",
        "import opentelemetry.sdk.trace\n",
        "def f():\n    from opentelemetry.exporter.otlp.proto.http import Compression\n",
    ],
)
def test_a_package_that_creates_spans_cannot_import_the_sdk(package: str, statement: str) -> None:
    assert "TID251" in lint(f"{package}/new.py", statement)


@pytest.mark.parametrize("module", ["telemetry/new.py", "otlp/new.py", "delivery/new.py", "testing/new.py"])
def test_a_package_that_may_use_the_sdk_can_import_it(module: str) -> None:
    assert "TID251" not in lint(module, "from opentelemetry.sdk.trace import TracerProvider\n")
