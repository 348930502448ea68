"""Environments of the comparable libraries: one each, made once, kept in the user's cache directory."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent
PEERS = {
    "OpenLLMetry": "opentelemetry-instrumentation-langchain==0.62.4",
    "OpenInference": "openinference-instrumentation-langchain==0.1.80",
}
OTHERS = ("langgraph", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")


def python_of(peer: str) -> Path:
    """The interpreter of an environment with the peer and the other packages of nodespan's environment."""
    package = PEERS[peer]
    home = user_cache_path("nodespan") / "peers" / f"{package}+otlp"
    python, made = home / "bin" / "python", home / ".made"
    if not made.exists():
        print(f"Set-up: {package}, in {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        install = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        subprocess.run([*install, "-c", ROOT / "constraints.txt", package, *OTHERS], check=True)
        made.touch()
    return python
