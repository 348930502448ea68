"""Prints the newest supported CPython of this machine: `make test-newest-python`.

Looks for ``python3.N`` on PATH and among the versions that pyenv keeps, runs each, and skips what cannot run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ASK = "import ensurepip, sys, venv; print(*sys.version_info[:3], sys.version_info.releaselevel == 'final')"
OLDEST = (3, 11)


def candidates() -> Iterator[Path]:
    """Paths of interpreters, this one first."""
    yield Path(sys.executable)
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += sorted((Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions").glob("*/bin"))
    for folder in folders:
        if folder.is_dir():
            yield from (path for path in folder.glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name))


def version(python: Path) -> tuple[int, ...] | None:
    """Version of a working interpreter that can create environments; ``None`` otherwise."""
    try:
        done = subprocess.run([str(python), "-c", ASK], check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    *numbers, is_final = done.stdout.split() or ["0", "False"]
    found = tuple(map(int, numbers))
    return found if done.returncode == 0 and is_final == "True" and found >= OLDEST else None


def main() -> None:
    """Prints one path."""
    found = {python: known for python in candidates() if (known := version(python)) is not None}
    print(max(found, key=lambda python: found[python]))


if __name__ == "__main__":
    main()
