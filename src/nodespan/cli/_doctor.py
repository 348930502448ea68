"""`nodespan doctor`: the configuration of a program started here, its destinations, and the installed versions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from rich.text import Text

from nodespan.delivery.destination import without_credentials
from nodespan.delivery.sender_lock import SenderLock
from nodespan.delivery.senders import make_sender
from nodespan.errors import ConfigurationError, StoreError
from nodespan.store import EXPORTED, MEMORY, load_secret, old_stores, open_store
from nodespan.telemetry.env import collecting_problems
from nodespan.telemetry.providers import valid_sdk_variables
from nodespan.telemetry.settings import Settings
from nodespan.testing import self_test

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodespan.cli._output import Console
    from nodespan.delivery.destination import Destination, Signal

_PACKAGES: Final = (
    "nodespan",
    "langgraph",
    "langchain-core",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp",
    "llama-cpp-python",
    "pydantic",
    "starlette",
    "uvicorn",
)
_SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")
_REACH_TIMEOUT_S: Final = 3.0
_UNTIL_IT_DOES: Final[Mapping[Signal, str]] = {
    "traces": "Spans wait in the store until it does.",
    "metrics": "Metrics are dropped until it does; OTEL_METRICS_EXPORTER=none records none.",
    "logs": "Log records are dropped until it does; OTEL_LOGS_EXPORTER=none records none.",
}
_LOAD_TIMEOUT_S: Final = 30.0
_FEATURES: Final = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
_OTHER_MEANING: Final = (
    "An installed library behaves differently from what nodespan expects. Please report the versions."
)
_REBUILD: Final = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
_WITHOUT_AMX: Final = "-DGGML_NATIVE=OFF " + " ".join(
    f"-DGGML_AVX512{part}=ON" for part in ("", "_VBMI", "_VNNI", "_BF16")
)


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        problems: Each with its fix; empty when there is none.
        hints: Possible future problems.
        signals: Destination of each signal.
        destination: Endpoint of traces, without credentials.
        reachable: Whether the endpoint answers; ``None`` without a destination.
        variables: The ``OTEL_*`` and ``NODESPAN_*`` variables that are set, without credentials.
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
    """Checks the configuration of a program started in this environment. Sends one empty request per destination."""
    found = Findings(versions={"python": sys.version.split()[0], **{name: _version(name) for name in _PACKAGES}})
    found.variables = {
        name: _shown(name, value)
        for name, value in sorted(os.environ.items())
        if name.startswith(("OTEL_", "NODESPAN_"))
    }
    with collecting_problems() as problems:
        destination = _examine_export(found, Settings())
        with valid_sdk_variables():
            pass
    found.problems += problems
    try:
        _examine_store(found, destination)
    except ConfigurationError as error:
        found.problems.append(str(error))
    except StoreError as error:
        found.problems.append(f"{error} Until this is fixed, programs keep their spans in memory.")
    found.hints += [
        f"{path} was written by an earlier version of nodespan and is not read. Delete it when you no longer need it."
        for path in old_stores()
    ]
    if found.versions["langgraph"]:
        found.problems += [f"{difference} {_OTHER_MEANING}" for difference in self_test()]
    if found.versions["llama-cpp-python"]:
        _examine_llama_cpp(found)
    return found


def _shown(name: str, value: str) -> str:
    if any(part in name for part in ("HEADERS", "KEY", "PASSWORD", "SECRET", "TOKEN", "CREDENTIAL")):
        return "(set)"
    return without_credentials(value) if "ENDPOINT" in name else value


def _examine_llama_cpp(found: Findings) -> None:
    """Loads llama.cpp in a separate process, because an instruction that the processor lacks would kill this one."""
    command = [sys.executable, "-c", _FEATURES]
    try:
        loaded = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_LOAD_TIMEOUT_S)  # noqa: S603 our own words
    except subprocess.TimeoutExpired:
        found.problems.append(f"llama-cpp-python does not load within {_LOAD_TIMEOUT_S:.0f} s on this machine.")
        return
    if loaded.returncode != 0:
        reason = (loaded.stderr.strip().splitlines() or [f"exit code {loaded.returncode}"])[-1]
        found.problems.append(f"llama-cpp-python cannot be loaded: {reason}. Build it for this machine: {_REBUILD}")
    elif "AMX_INT8 = 1" in loaded.stdout:
        found.hints.append(
            "llama.cpp is built with AMX here. With some compilers it crashes at the first prompt; "
            f'if it does: CMAKE_ARGS="{_WITHOUT_AMX}" {_REBUILD}'
        )


def _examine_export(found: Findings, settings: Settings) -> Destination | None:
    settings.report_unsupported()
    _ = settings.write_interval_s, settings.queue_max  # reports invalid values
    if settings.is_disabled:
        found.signals = dict.fromkeys(_SIGNALS, "not recorded: OTEL_SDK_DISABLED=true")
        found.problems.append("OTEL_SDK_DISABLED=true: nothing is recorded. Unset it to record.")
        return None
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if sampler in {"always_off", "parentbased_always_off"}:
        found.hints.append(f"OTEL_TRACES_SAMPLER={sampler}: no trace is recorded unless a caller samples it.")
    destinations: dict[Signal, Destination | None] = {signal: settings.destination(signal) for signal in _SIGNALS}
    for signal, destination in destinations.items():
        found.signals[signal] = _where(settings, signal, destination)
        if destination is not None:
            answers = _examine_destination(found, signal, destination)
            if signal == "traces":
                found.destination, found.reachable = destination.label, answers
    return destinations["traces"]


def _where(settings: Settings, signal: Signal, destination: Destination | None) -> str:
    exporters = settings.exporters_of(signal)
    places: list[str] = []
    if destination is not None:
        places.append(f"{destination.protocol} to {destination.label}")
    elif "local" in exporters and signal == "traces":
        places.append("to the local store")
    if "console" in exporters:
        places.append("to the console")
    if places:
        return " and ".join(places)
    return "not recorded: no endpoint is set" if exporters else f"not recorded: OTEL_{signal.upper()}_EXPORTER=none"


def _examine_destination(found: Findings, signal: Signal, destination: Destination) -> bool:
    """Sends an empty request, by the sender of a program; an empty request is valid OTLP and stores nothing."""
    sender = make_sender(destination, signal)
    sender.timeout_s = min(sender.timeout_s, _REACH_TIMEOUT_S)
    try:
        with suppress_instrumentation():
            answer = sender.send(b"")
    finally:
        sender.close()
    if answer.kind in {"accepted", "refused"}:
        return True
    found.problems.append(
        f"{destination.label} does not accept {'spans' if signal == 'traces' else signal}: {answer.text}. "
        f"{_UNTIL_IT_DOES[signal]} "
        "Check that the collector runs there and that OTEL_EXPORTER_OTLP_ENDPOINT and the headers are right."
    )
    return bool(answer.reason)


def _examine_store(found: Findings, destination: Destination | None) -> None:
    with closing(open_store()) as store:
        stats = store.stats()
        secret = load_secret(store.path)
    oldest_ns = stats.oldest_waiting_ns
    found.store = {
        "path": str(store.path),
        "mode": f"{store.path.stat().st_mode & 0o777:04o}" if store.path != MEMORY else None,
        "spans": stats.spans,
        "bytes": stats.size_bytes,
        "waiting": stats.waiting,
        "destinations": [asdict(each) for each in stats.destinations],
        "oldest_waiting_s": None if oldest_ns is None else round(max(time.time_ns() - oldest_ns, 0) / 1e9, 1),
        "exported": stats.outcomes.pop(EXPORTED, 0),
        "lost": stats.outcomes,
    }
    own = None if destination is None else destination.identity(secret)
    for each in stats.destinations:
        if each.identity != own:
            found.problems.append(
                f"{each.spans} spans wait for {each.label}, or for other credentials of it, and no program here sends "
                f"them. Send them to the current endpoint: nodespan flush --from {(each.identity or '')[:8]}"
            )
        elif each.last_error and found.reachable:
            found.problems.append(f"{each.spans} spans wait for {each.label}, whose last error was: {each.last_error}")
    if own is not None and stats.waiting and (holder := SenderLock(store.path, own).holder()) and holder.is_stuck:
        found.problems.append(
            f"Process {holder.pid} is the sender for {found.destination} and has made no progress for "
            f"{holder.idle_s:.0f} s. If it hangs, end it: another process then becomes the sender."
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show(console: Console, found: Findings) -> None:
    """Prints the findings."""
    for signal, where in found.signals.items():
        console.print(f"{signal:<8} {where}", soft_wrap=True)
    if found.destination is not None:
        console.print(f"{'':8} the destination {'answers' if found.reachable else 'does not answer'}")
    if found.store:
        _show_store(console, found.store)
    for name, value in found.variables.items():
        console.print(f"{'set':<8} {name}={value}", soft_wrap=True)
    for name, installed in found.versions.items():
        console.print(f"{'version':<8} {name} {installed or '(not installed)'}")
    if not found.versions.get("llama-cpp-python"):
        console.print('         models in this process require: pip install "nodespan[llama-cpp]"')
    for hint in found.hints:
        console.print(Text.assemble(("hint", "yellow"), f"     {hint}"), soft_wrap=True)
    for problem in found.problems:
        console.print(Text.assemble(("problem", "red"), f"  {problem}"), soft_wrap=True)
    count = len(found.problems)
    console.print(f"{count} problem{'s' * (count != 1)} found" if count else Text("no problem found", "green"))


def _show_store(console: Console, store: dict[str, Any]) -> None:
    if store["mode"] is None:
        console.print("store    in memory: spans are lost when their process ends")
        return
    console.print(f"store    {store['path']} (mode {store['mode']})", soft_wrap=True)
    console.print(f"{'':8} {store['spans']} spans, {store['bytes']} bytes")
    labels = ", ".join(each["label"] for each in store["destinations"])
    since = f" to {labels}, the oldest for {store['oldest_waiting_s']} s"
    console.print(
        f"outbox   {store['waiting']} spans wait to be sent{since if store['waiting'] else ''}", soft_wrap=True
    )
    console.print(f"{'':8} {store['exported']} spans were sent")
    for reason, spans in store["lost"].items():
        console.print(f"{'':8} {spans} spans were lost: {reason}")
    for each in store["destinations"]:
        if each["last_error"]:
            console.print(f"{'':8} last error of {each['label']}: {each['last_error']}", soft_wrap=True)
