"""The programs of docs/pipelines.md run unchanged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
assert len(PROGRAMS) == 2
USES_OWN = """
from nodespan import GenerationRequest, Runner
print(*(chunk.content for chunk in Runner(factory).stream_pipeline(GenerationRequest(prompt="a b"))))
"""


@pytest.mark.parametrize(
    ("program", "prints"),
    [
        pytest.param(PROGRAMS[0], r"(?s)\{.*\d+ (stop|length)", marks=pytest.mark.extended),
        (PROGRAMS[1], r"A  B"),
    ],
    ids=["request", "own"],
)
def test_a_program_of_the_page_runs(program: str, prints: str, tmp_path: Path, smollm2: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(smollm2)
    (tmp_path / "app.py").write_text(program if "Runner(factory)" in program else program + USES_OWN)
    ran = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert re.search(prints, ran.stdout), ran.stdout


def test_the_profile_of_the_servers_page_is_accepted(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
    program = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
