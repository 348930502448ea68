"""`nodespan doctor`: what is configured, what is reachable, which versions are here; in plain words."""

from __future__ import annotations

import os
import socket
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
    from rich.console import Console

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


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        problems: In words, each with what to do; empty when all is well.
        signals: Where traces, metrics and logs go.
        variables: The ``OTEL_*`` and ``NODESPAN_*`` variables that are set; headers are not shown.
    """

    problems: list[str] = field(default_factory=list[str])
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
    return found


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
        console.print(f"{'set':<8} {name}={value}", markup=False)
    for name, installed in found.versions.items():
        console.print(f"{'version':<8} {name} {installed or '(not installed)'}")
    if not found.versions.get("llama-cpp-python"):
        console.print('         models in this process need: pip install "nodespan[llama-cpp]"', markup=False)
    for problem in found.problems:
        console.print(Text.assemble(("problem", "red"), f"  {problem}"))
    console.print("[green]all is well[/green]" if not found.problems else f"{len(found.problems)} to look at")


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
        console.print(f"{'':8} last error: {store['last_error']}", markup=False, soft_wrap=True)
