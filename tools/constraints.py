"""Resolves all dependencies and writes constraints.txt. Type: make constraints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Every version that nodespan is built and tested with: base, the llama-cpp extra and the dependency groups of
# pyproject.toml, direct and transitive, resolved with Python 3.11 on Linux.
# Written by `make constraints` with the newest versions that pyproject.toml allows. Do not edit.
"""


def resolve(*requirements: str) -> dict[str, str]:
    """Name and version of each package that pip would install in an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    # The report holds download addresses; only names and versions leave this function.
    report = subprocess.run([*command, *requirements], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = (item["metadata"] for item in json.loads(report)["install"])
    return {re.sub(r"[-_.]+", "-", item["name"]).lower(): item["version"] for item in found}


def main() -> None:
    """Writes the file; git shows what changed."""
    pins = resolve(".[llama-cpp]", "--group", "dev", "--group", "build")
    pins |= resolve("--no-deps", "--group", "model", "--group", "scale")
    del pins["nodespan"]
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines))
    print(f"constraints.txt: {len(lines)} versions. See: git diff constraints.txt")


if __name__ == "__main__":
    main()
