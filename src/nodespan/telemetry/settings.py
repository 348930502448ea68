"""What `configure()` was told: OTEL_* variables first, then its arguments, then the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from nodespan.delivery.processor import QUEUE_MAX, WRITE_INTERVAL_S
from nodespan.delivery.running_spans import AFTER_S
from nodespan.errors import ConfigurationError
from nodespan.store.location import positive_variable

Signal = Literal["traces", "metrics", "logs"]
Protocol = Literal["http/protobuf", "grpc"]
Exporter = Literal["otlp", "console", "none", "local"]

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
HEADERS: Final = "OTEL_EXPORTER_OTLP_HEADERS"
COMPRESSION: Final = "OTEL_EXPORTER_OTLP_COMPRESSION"
_DEFAULT_ENDPOINTS: Final = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
_PROTOCOLS: Final = ("http/protobuf", "grpc")
_EXPORTERS: Final = ("otlp", "console", "none")


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of ``configure()``, as they were given.

    Attributes:
        zero_code: ``opentelemetry-instrument`` asks, and not the program, which may still ask in its own words.
    """

    service_name: str | None = None
    endpoint: str | None = None
    protocol: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)  # they may hold a key
    resource_attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    attach: bool = False
    zero_code: bool = False

    def endpoint_of(self, signal: Signal) -> str | None:
        """Where the signal goes, or ``None``: the variable of the signal, the common one, then the argument.

        Raises:
            ConfigurationError: It is no address.
        """
        for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", ENDPOINT):
            if value := os.environ.get(name, "").strip():
                return _checked_endpoint(value, name, self.protocol_of(signal))
        if self.endpoint is None:
            # Asked for by name and with no address, it goes where the OpenTelemetry specification says.
            asked = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip() == "otlp"
            return _DEFAULT_ENDPOINTS[self.protocol_of(signal)] if asked else None
        return _checked_endpoint(self.endpoint, "configure(endpoint=...)", self.protocol_of(signal))

    def exporter_endpoint(self, signal: Signal) -> str | None:
        """What the SDK's exporter is to be given; ``None`` where it reads the variables itself."""
        if any(os.environ.get(n, "").strip() for n in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", ENDPOINT)):
            return None
        endpoint = self.endpoint_of(signal)
        if endpoint is None or self.protocol_of(signal) == "grpc":
            return endpoint
        return f"{endpoint.rstrip('/')}/v1/{signal}"

    def headers_of(self, signal: Signal) -> dict[str, str]:
        """The headers of the argument, and over them those of the variable of the signal, or of the common one."""
        given = {name.lower(): value for name, value in (self.headers or {}).items()}
        variable = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS") or os.environ.get(HEADERS, "")
        return {**given, **parse_env_headers(variable, liberal=True)}

    def compression_of(self, signal: Signal) -> str:
        """``none`` unless something else is asked for; with gRPC that can only be gzip.

        Raises:
            ConfigurationError: It is something else.
        """
        allowed = ("none", "gzip") if self.protocol_of(signal) == "grpc" else ("none", "gzip", "deflate")
        for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_COMPRESSION", COMPRESSION):
            if value := os.environ.get(name, "").strip().lower():
                return _one_of(value, allowed, name)
        return "none"

    def _check_exporter(self, signal: Signal) -> None:
        """Looks at what only the SDK's exporters read, which would fail later, and in other words.

        Raises:
            ConfigurationError: A variable has a value that cannot work.
        """
        self.compression_of(signal)
        for prefix in ("OTEL_EXPORTER_OTLP_", f"OTEL_EXPORTER_OTLP_{signal.upper()}_"):
            positive_variable(f"{prefix}TIMEOUT", 10)
            for what in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
                path = os.environ.get(prefix + what, "").strip()
                if path and not Path(path).is_file():
                    raise ConfigurationError(f"{prefix}{what} is {path!r}, and there is no such file. Give a PEM file.")

    def difference(self, other: Settings) -> str:
        """The settings that differ, with both values, as a user gave them; headers are named without their values."""
        found: list[str] = []
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine != theirs:
                found.append(f"{each.name}={mine!r}, now {theirs!r}" if each.repr else f"other {each.name}")
        return "; ".join(found)

    @property
    def is_disabled(self) -> bool:
        """``OTEL_SDK_DISABLED=true``: nothing is recorded."""
        return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"

    @property
    def write_interval_s(self) -> float:
        """How long an ended span waits for others before it is written; ``OTEL_BSP_SCHEDULE_DELAY`` is in ms.

        Raises:
            ConfigurationError: It is no positive number.
        """
        return positive_variable("OTEL_BSP_SCHEDULE_DELAY", WRITE_INTERVAL_S * 1e3) / 1e3

    @property
    def running_after_s(self) -> float:
        """How long a span is open before it has a row in the store; ``NODESPAN_RUNNING_AFTER_MS`` is in ms.

        Raises:
            ConfigurationError: It is not a positive number.
        """
        return positive_variable("NODESPAN_RUNNING_AFTER_MS", AFTER_S * 1e3) / 1e3

    @property
    def queue_max(self) -> int:
        """How many ended spans may wait to be written.

        Raises:
            ConfigurationError: It is no positive number.
        """
        return round(positive_variable("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_MAX))

    def protocol_of(self, signal: Signal) -> Protocol:
        """``http/protobuf`` unless something else is asked for.

        Raises:
            ConfigurationError: It is neither of the two.
        """
        for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", PROTOCOL):
            if value := os.environ.get(name, "").strip():
                return _one_of(value, _PROTOCOLS, name)
        return _one_of(self.protocol or "http/protobuf", _PROTOCOLS, "configure(protocol=...)")

    def exporter_of(self, signal: Signal) -> Exporter:
        """``OTEL_*_EXPORTER`` if it is set. Otherwise ``otlp`` where there is an endpoint.

        Without one ``local``: spans go to the local store, and nothing else is recorded.

        Raises:
            ConfigurationError: The variable names none that there is.
        """
        name = f"OTEL_{signal.upper()}_EXPORTER"
        has_endpoint = self.endpoint_of(signal) is not None
        chosen = _one_of(os.environ.get(name, "").strip() or "otlp", _EXPORTERS, name)
        if chosen == "otlp" and has_endpoint:
            self._check_exporter(signal)
        return "local" if chosen == "otlp" and not has_endpoint else chosen


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> Any:
    if value not in allowed:
        raise ConfigurationError(f"{where} is {value!r}. It can be {', '.join(allowed)}.")
    return value


def _checked_endpoint(value: str, where: str, protocol: Protocol) -> str:
    parts = urlsplit(value)
    try:
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigurationError(
            f"{where} is {value!r}, which is no address. Give one like {_DEFAULT_ENDPOINTS[protocol]}."
        )
    return value
