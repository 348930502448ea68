"""The programs and commands of README.md work unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TIMEOUT_S = 100  # loading a small model and a few hundred tokens, on a busy machine


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def examples(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> list[subprocess.CompletedProcess[str]]:
    """Every python block, run once as a program beside a real model."""
    ran = []
    for number, code in enumerate(blocks("python"), 1):
        folder = tmp_path_factory.mktemp(f"example-{number}")
        (folder / "model.gguf").symlink_to(smollm2)
        (folder / "app.py").write_text(code)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment["NODESPAN_STORE"] = str(folder / "store.db")
        ran.append(run("app.py", cwd=folder, env=environment))
    return ran


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.extended
def test_every_python_block_runs_on_a_real_model(examples: list[subprocess.CompletedProcess[str]]) -> None:
    assert examples
    for example in examples:
        assert (example.returncode, "Traceback" in example.stderr) == (0, False), example.stderr


@pytest.mark.extended
def test_the_first_example_prints_the_ids_of_each_event(examples: list[subprocess.CompletedProcess[str]]) -> None:
    lines = [line.split() for line in examples[0].stdout.splitlines()]
    assert len({trace_id for trace_id, _, _ in lines}) == 1
    assert all(re.fullmatch("[0-9a-f]{32}", trace_id) for trace_id, _, _ in lines)
    assert all(re.fullmatch("[0-9a-f]{16}", span_id) for _, span_id, _ in lines)
    assert {"on_chain_start", "on_custom_event", "on_chain_end"} <= {event for _, _, event in lines}


def test_every_shell_command_exists() -> None:
    commands = [line.split()[:2] for block in blocks("sh") for line in block.splitlines() if line.strip()]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, subject in commands:
        match program:
            case "make":
                assert subject in targets
            case "nodespan":
                ran = run("-c", "from nodespan.cli import main; main()", subject, "--help", cwd=ROOT)
                assert ran.returncode == 0, ran.stderr
            case "export":
                assert subject.partition("=")[0] in (ROOT / "docs" / "configuration.md").read_text()
            case _:
                pytest.fail(f"README shows {program!r}, which this test cannot check yet")


def test_every_link_to_a_file_has_a_target() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
