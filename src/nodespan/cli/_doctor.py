"""`nodespan doctor`: what is configured, what is reachable, which versions are here; in plain words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from rich.text import Text

from nodespan.errors import ConfigurationError, NodespanError, StoreError
from nodespan.store import EXPORTED, MEMORY, open_store
from nodespan.telemetry.settings import Settings

if TYPE_CHECKING:
    from nodespan.cli._output import Console

_PACKAGES: Final = (
    "nodespan",
    "langgraph",
    "langchain-core",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp",
    "llama-cpp-python",
    "pydantic",
)
_REACH_TIMEOUT_S: Final = 2.0
_LOAD_TIMEOUT_S: Final = 30.0
_FEATURES: Final = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
_REBUILD: Final = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
_WITHOUT_AMX: Final = "-DGGML_NATIVE=OFF " + " ".join(
    f"-DGGML_AVX512{part}=ON" for part in ("", "_VBMI", "_VNNI", "_BF16")
)


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        problems: In words, each with what to do; empty when all is well.
        hints: What may become a problem.
        signals: Where traces, metrics and logs go.
        variables: The ``OTEL_*`` and ``NODESPAN_*`` variables that are set; headers are not shown.
    """

    problems: list[str] = field(default_factory=list[str])
    hints: list[str] = field(default_factory=list[str])
    signals: dict[str, str] = field(default_factory=dict[str, str])
    destination: str | None = None
    reachable: bool | None = None
    store: dict[str, Any] = field(default_factory=dict[str, Any])
    variables: dict[str, str] = field(default_factory=dict[str, str])
    versions: dict[str, str | None] = field(default_factory=dict[str, str | None])


def examine() -> Findings:
    """Looks at the environment that a program started here would see. Changes nothing but an absent store."""
    found = Findings(versions={"python": sys.version.split()[0], **{name: _version(name) for name in _PACKAGES}})
    found.variables = {
        name: "(set)" if "HEADERS" in name else value
        for name, value in sorted(os.environ.items())
        if name.startswith(("OTEL_", "NODESPAN_"))
    }
    try:
        _examine_export(found, Settings())
    except NodespanError as error:
        found.problems.append(str(error))
    try:
        _examine_store(found)
    except ConfigurationError as error:
        found.problems.append(str(error))
    except StoreError as error:
        found.problems.append(f"{error} Meanwhile a program keeps its spans in memory, until it ends.")
    if found.versions["llama-cpp-python"]:
        _examine_llama_cpp(found)
    return found


def _examine_llama_cpp(found: Findings) -> None:
    """Loads it in a process of its own, because an instruction that the processor does not have would kill this one."""
    command = [sys.executable, "-c", _FEATURES]
    loaded = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_LOAD_TIMEOUT_S)  # noqa: S603 our own words
    if loaded.returncode != 0:
        reason = (loaded.stderr.strip().splitlines() or [f"it ends with {loaded.returncode}"])[-1]
        found.problems.append(f"llama-cpp-python cannot be loaded: {reason}. Build it for this machine: {_REBUILD}")
    elif "AMX_INT8 = 1" in loaded.stdout:
        found.hints.append(
            "llama.cpp is built with AMX here. With some compilers it then crashes at the first prompt; "
            f'if it does: CMAKE_ARGS="{_WITHOUT_AMX}" {_REBUILD}'
        )


def _examine_export(found: Findings, settings: Settings) -> None:
    for signal in ("traces", "metrics", "logs"):
        kind = settings.exporter_of(signal)
        endpoint = settings.endpoint_of(signal)
        if kind == "otlp":
            found.signals[signal] = f"{settings.protocol_of(signal)} to {endpoint}"
        elif kind == "console":
            found.signals[signal] = "to the console"
        elif kind == "none":
            found.signals[signal] = f"not recorded: OTEL_{signal.upper()}_EXPORTER=none"
        else:
            found.signals[signal] = "to the local store" if signal == "traces" else "not recorded: no endpoint is set"
    found.destination = settings.endpoint_of("traces")
    if found.destination is not None:
        found.reachable = _is_reachable(found.destination)
        if not found.reachable:
            found.problems.append(
                f"Nothing answers at {found.destination}. Spans wait in the store meanwhile. "
                "Is the collector running there? OTEL_EXPORTER_OTLP_ENDPOINT says where it is."
            )


def _examine_store(found: Findings) -> None:
    store = open_store()
    outbox = store.look()
    store.close()
    oldest_ns = outbox.oldest_waiting_ns
    found.store = {
        "path": str(store.path),
        "mode": f"{store.path.stat().st_mode & 0o777:04o}" if store.path != MEMORY else None,
        "spans": outbox.spans,
        "bytes": outbox.size_bytes,
        "waiting": outbox.waiting,
        "destinations": outbox.destinations,
        "oldest_waiting_s": None if oldest_ns is None else round(max(time.time_ns() - oldest_ns, 0) / 1e9, 1),
        "exported": outbox.outcomes.pop(EXPORTED, 0),
        "lost": outbox.outcomes,
        "last_error": outbox.last_error,
    }


def _is_reachable(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_REACH_TIMEOUT_S):
            return True
    except OSError:
        return False


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show(console: Console, found: Findings) -> None:
    """The findings in plain words."""
    for signal, where in found.signals.items():
        console.print(f"{signal:<8} {where}")
    if found.destination is not None:
        console.print(f"{'':8} the destination {'answers' if found.reachable else 'does not answer'}")
    if found.store:
        _show_store(console, found.store)
    for name, value in found.variables.items():
        console.print(f"{'set':<8} {name}={value}")
    for name, installed in found.versions.items():
        console.print(f"{'version':<8} {name} {installed or '(not installed)'}")
    if not found.versions.get("llama-cpp-python"):
        console.print('         models in this process need: pip install "nodespan[llama-cpp]"')
    for hint in found.hints:
        console.print(Text.assemble(("hint", "yellow"), f"     {hint}"), soft_wrap=True)
    for problem in found.problems:
        console.print(Text.assemble(("problem", "red"), f"  {problem}"), soft_wrap=True)
    console.print(Text("all is well", "green") if not found.problems else f"{len(found.problems)} to look at")


def _show_store(console: Console, store: dict[str, Any]) -> None:
    if store["mode"] is None:
        console.print("store    in memory, as NODESPAN_STORE asks: nothing outlives the process that made it")
        return
    console.print(f"store    {store['path']} (mode {store['mode']})", soft_wrap=True)
    console.print(f"{'':8} {store['spans']} spans, {store['bytes']} bytes")
    since = f" to {', '.join(store['destinations'])}, the oldest for {store['oldest_waiting_s']} s"
    console.print(
        f"outbox   {store['waiting']} spans wait to be sent{since if store['waiting'] else ''}", soft_wrap=True
    )
    console.print(f"{'':8} {store['exported']} spans were sent")
    for reason, spans in store["lost"].items():
        console.print(f"{'':8} {spans} spans were lost: {reason}")
    if store["last_error"]:
        console.print(f"{'':8} last error: {store['last_error']}", soft_wrap=True)
