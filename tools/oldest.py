"""Runs pytest on the oldest LangGraph that nodespan supports, in an environment of its own: `make test-oldest`.

The environment holds what ``tools/oldest.txt`` names and nothing of this clone. It is kept for the next one in the
user's cache directory, by what is in it, which saves a minute; one that is damaged is made anew, and where nothing can
be kept it is made in the clone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = Path(__file__).with_name("oldest.txt")
PYTEST = ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--inline-snapshot=disable", "-p", "no:cacheprovider"]


def folder(environment: Mapping[str, str]) -> Path:
    """Where the environment is kept: named after its interpreter and its pins."""
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodespan"
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]
    return cache / f"oldest-{sys.implementation.cache_tag}-{pins}"


def works(python: Path) -> bool:
    """Whether the environment is there and whole enough to import what is tested."""
    command = [str(python), "-c", "import langgraph.pregel, opentelemetry.sdk.trace, pytest, xdist"]
    return python.exists() and subprocess.run(command, check=False, capture_output=True).returncode == 0


def make(target: Path) -> None:
    """Makes the environment beside its place and moves it there whole; only its Python is used, no script of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"Set-up: {PINS.name} in {target}", flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as scratch:
        made = Path(scratch) / "made"
        subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
        pip = [str(made / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "-r", str(PINS)], check=True)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def environment_python() -> Path:
    """The Python of an environment that works, made if there is none."""
    for target in (folder(os.environ), ROOT / ".venv" / "oldest"):
        python = target / "bin" / "python"
        try:
            if not works(python):
                make(target)
        except OSError as error:  # nothing can be kept there, or another clone was quicker
            print(f"Not used: {target}: {error}", flush=True)
        if works(python):
            return python
    sys.exit(f"The environment of {PINS.name} could not be made; the lines above say why.")


def main() -> None:
    """Runs pytest with the arguments of the command line."""
    command = [str(environment_python()), *PYTEST, *sys.argv[1:]]
    source = {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.exit(subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, **source}).returncode)


if __name__ == "__main__":
    main()
