"""The Makefile explains itself, and the documents name targets that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def explained() -> set[str]:
    return set(re.findall(r"^  make ([a-z-]+) +\S", make("help"), re.MULTILINE))


def test_help_is_the_output_of_make_alone() -> None:
    assert make() == make("help")


def test_every_target_with_its_own_explanation_is_phony() -> None:
    declared = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    assert explained() - set(declared[1].split()) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_names_only_targets_that_exist(document: Path) -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert named - explained() == set()


def test_contributing_describes_each_target() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert {target for target in explained() if f"`make {target}`" not in text} == set()
