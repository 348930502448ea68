"""Runs pytest in an environment with other versions of the dependencies: `make test-oldest`, `make test-newest`.

``oldest`` installs the pins of ``tools/oldest.txt``; ``newest`` what pyproject.toml allows at most.
Both environments are kept in the user's cache directory for the next clone. A damaged one is made again. Where nothing
can be kept, the environment is made in the clone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = Path(__file__).with_name("oldest.txt")
PYTEST = ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--inline-snapshot=disable", "-p", "no:cacheprovider"]
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
SHOWN = ("langgraph", "langchain-core", "opentelemetry-sdk", "pydantic")
TEST_PACKAGES = (
    "hypothesis", "inline-snapshot", "langchain", "langgraph-checkpoint-sqlite", "pytest", "pytest-asyncio",
    "pytest-timeout", "pytest-xdist",
)  # fmt: skip


def requirements(kind: str) -> list[str]:
    """Arguments of ``pip install`` for an environment of this kind."""
    if kind == "oldest":
        return ["--no-deps", "-r", str(PINS)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return ["--upgrade", "--upgrade-strategy", "eager", *project["dependencies"], *TEST_PACKAGES]


def folder(kind: str, environment: Mapping[str, str]) -> Path:
    """Path of the cached environment: a hash of its kind, interpreter and requirements."""
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodespan"
    facts = PINS.read_text() if kind == "oldest" else "\n".join(requirements(kind))
    return cache / f"{kind}-{sys.implementation.cache_tag}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def works(python: Path) -> bool:
    """Whether the environment exists and can import the tested libraries."""
    command = [str(python), "-c", "import langgraph.pregel, opentelemetry.sdk.trace, pytest, xdist"]
    return python.exists() and subprocess.run(command, check=False, capture_output=True).returncode == 0


def make(kind: str, target: Path) -> None:
    """Creates the environment in a temporary folder and renames it, so that an interrupted run leaves none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"Set-up: the {kind} versions in {target}", flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as scratch:
        made = Path(scratch) / "made"
        subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
        subprocess.run([str(made / "bin" / "python"), *PIP, *requirements(kind)], check=True)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)


def environment_python(kind: str) -> Path:
    """The Python of a working environment, which is created if there is none."""
    for target in (folder(kind, os.environ), ROOT / ".venv" / kind):
        python = target / "bin" / "python"
        try:
            if not works(python):
                make(kind, target)
        except OSError as error:  # the cache cannot be written, or another clone was faster
            print(f"Not used: {target}: {error}", flush=True)
        if works(python):
            return python
    sys.exit(f"The environment of the {kind} versions could not be created; the lines above have the reason.")


def main() -> None:
    """Runs pytest with the arguments of the command line; the first one is ``oldest`` or ``newest``."""
    kind, *arguments = sys.argv[1:]
    python = environment_python(kind)
    if kind == "newest":  # a cached one may be outdated
        subprocess.run([str(python), *PIP, *requirements(kind)], check=True)
    versions = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {SHOWN}), sep=', ')"
    subprocess.run([str(python), "-c", versions], check=True)
    source = {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), *PYTEST, *arguments]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, **source}).returncode)


if __name__ == "__main__":
    main()
