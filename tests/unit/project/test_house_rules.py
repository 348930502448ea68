"""Rules that hold for every file in the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LINES_MAX = 400
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|opt/wheels|tmp/\w+|home/\w+|Users/\w+)/")
# Not spelt out, so that this file names none itself.
REGISTRY = re.compile(
    r"https?://[^\s/]*(pypi|pythonhosted|npmjs|yarnpkg|crates|goproxy|proxy\.golang|maven)"
    r"|(--|PIP_)(extra[-_])?(index[-_]url|find[-_]links|trusted[-_]host)",
    re.IGNORECASE,
)
# Documents that are not in the repository; the word is put together so that this file does not name one itself.
OUTSIDE = re.compile(r"\b(DESI" + r"GN \d|DECISI" + r"ONS\.md|review-\d|field-\d|perf-\d\.md)")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_python_file_is_longer_than_400_lines() -> None:
    sources = [path for path in tracked_files() if path.suffix == ".py"]
    assert len(sources) > 10
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources}
    assert {name: length for name, length in lengths.items() if length > LINES_MAX} == {}


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, REGISTRY, OUTSIDE], ids=["machine path", "registry address", "document outside"]
)
def test_no_file_names_a_machine_path_a_registry_or_a_document_outside(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip():.120}"
        for path in tracked_files()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_every_warning_is_logged_with_a_code() -> None:
    """By ``nodespan.spans.log.warn``; the lean span logs the SDK's own warnings to the SDK's logger."""
    calls = re.compile(r"\b_?logger\.(?:warning|error|exception|critical)\(")  # not sdk_logger
    found = [path.relative_to(ROOT) for path in (ROOT / "src").rglob("*.py") if calls.search(path.read_text())]
    assert found == []


def test_no_sql_statement_has_numbered_parameters() -> None:
    """Early versions of Python 3.12 log a deprecation for those with a sequence of values."""
    numbered = re.compile(r"[\s(=,]\?\d")
    found = [path.relative_to(ROOT) for path in (ROOT / "src").rglob("*.py") if numbered.search(path.read_text())]
    assert found == []
