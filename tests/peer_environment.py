"""Other instrumentations of the same libraries, which nodespan does not depend on, and programs that run under them.

They are installed once, without their dependencies, in a folder of the user's cache. Each combination runs in a
separate process.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

PACKAGES = (
    "openinference-instrumentation==0.1.72",
    "openinference-semantic-conventions==0.1.42",
    "openinference-instrumentation-langchain==0.1.80",
    "openinference-instrumentation-openai==0.1.66",
    "opentelemetry-util-genai==1.3b0",
    "opentelemetry-instrumentation-genai-langchain==1.3b0",
    "opentelemetry-semantic-conventions-ai==0.5.1",
    "opentelemetry-instrumentation-langchain==0.62.4",
    "opentelemetry-instrumentation-openai==0.62.4",
    "langchain-openai==1.7.4",
    "tiktoken==0.14.0",
    "regex==2026.11.19",
)
V2_PACKAGES = ("opentelemetry-instrumentation-openai-v2==2.4b0", "opentelemetry-util-genai==0.4b0")
"""The predecessor of ``opentelemetry-instrumentation-genai-openai``, whose utilities are of another version."""
TESTS = Path(__file__).parent

Run = Callable[..., tuple[dict[str, Any], str]]


def install(packages: tuple[str, ...]) -> Path:
    """The folder with the packages."""
    key = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    home = user_cache_path("nodespan") / f"peers-{sys.version_info.major}.{sys.version_info.minor}-{key}"
    if not home.exists():
        new = home.with_name(f"{home.name}.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--target", new, *packages], check=True, timeout=300)
        try:
            new.rename(home)
        except OSError:  # another process was quicker
            assert home.exists()
    return home


def runner(program: str) -> Run:
    """A function that runs the program under instrumentations, once for each combination: its JSON and its stderr."""
    known: dict[tuple[str, ...], tuple[dict[str, Any], str]] = {}

    def run(*names: str) -> tuple[dict[str, Any], str]:
        if names not in known:
            installed = install(V2_PACKAGES if "v2" in names else PACKAGES)
            path = os.pathsep.join([str(installed), str(TESTS), *sys.path])
            done = subprocess.run(
                [sys.executable, "-W", "ignore", TESTS / program, *names],
                env={**os.environ, "PYTHONPATH": path, "NODESPAN_RAISE_INTERNAL_ERRORS": "1"},
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            known[names] = json.loads(done.stdout.splitlines()[-1]), done.stderr
        return known[names]

    return run
