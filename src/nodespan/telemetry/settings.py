"""The settings of a configuration: OTEL_* variables take precedence over arguments, and these over the defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from nodespan import _import_variables
from nodespan.delivery.destination import Destination, Protocol, Signal, normalised, without_credentials
from nodespan.delivery.processor import QUEUE_MAX, WRITE_INTERVAL_S
from nodespan.delivery.running_spans import AFTER_S
from nodespan.errors import ConfigurationError
from nodespan.store.location import positive_variable
from nodespan.telemetry import env

Exporter = Literal["otlp", "console", "none", "local"]

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_DEFAULT_ENDPOINTS: Final = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}
_PROTOCOLS: Final[tuple[Protocol, ...]] = ("http/protobuf", "grpc")
_EXPORTERS: Final[tuple[Exporter, ...]] = ("otlp", "console", "none")
_TIMEOUT_MAX_S: Final = 60.0
_UNSUPPORTED: Final = ("OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE", "OTEL_PYTHON_ID_GENERATOR")


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of ``configure()``.

    An invalid argument is an error. An invalid ``OTEL_*`` variable is a logged problem (``env.report_problem``), and
    the default is used for that signal alone.

    Attributes:
        zero_code: The process is configured by ``opentelemetry-instrument``; the program may still call
            ``configure()``.
    """

    service_name: str | None = None
    endpoint: str | None = field(default=None, repr=False)  # it may hold a password
    protocol: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)  # they may hold a key
    resource_attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    attach: bool = False
    zero_code: bool = False

    def check(self) -> None:
        """Checks the arguments.

        Raises:
            ConfigurationError: An argument is invalid.
        """
        if self.protocol is not None and self.protocol not in _PROTOCOLS:
            raise ConfigurationError(
                f"configure(protocol={self.protocol!r}) is invalid. It can be {', '.join(_PROTOCOLS)}."
            )
        if self.endpoint is not None and not _is_address(self.endpoint, self.protocol_of("traces")):
            raise ConfigurationError(
                f"configure(endpoint=...) is not a valid URL: {without_credentials(self.endpoint)!r}. "
                f"Example: {_DEFAULT_ENDPOINTS[self.protocol_of('traces')]}"
            )

        for name, value in (self.headers or {}).items():
            if not _is_header(name, str(value)):
                raise ConfigurationError(
                    f"configure(headers=...): the name or value of {name!r} has characters that a header cannot have, "
                    "such as a line break. Give visible ASCII characters and spaces."
                )

    def difference(self, other: Settings) -> str:
        """The settings that differ, with both values; credentials are named without their values."""
        found: list[str] = []
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if mine != theirs:
                found.append(f"{each.name}={mine!r}, now {theirs!r}" if each.repr else f"another {each.name}")
        return "; ".join(found)

    def destination(self, signal: Signal = "traces") -> Destination | None:
        """Where the signal is sent; ``None`` where it is not sent."""
        endpoint = self.endpoint_of(signal)
        if endpoint is None or "otlp" not in self.exporters_of(signal):
            return None
        protocol = self.protocol_of(signal)
        url, credentials = normalised(endpoint)
        if protocol == "http/protobuf" and not self._is_of_signal(signal):
            url = urlsplit(url)._replace(path=f"{urlsplit(url).path}/v1/{signal}").geturl()
        insecure_names = f"OTEL_EXPORTER_OTLP_{signal.upper()}_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"
        scheme = urlsplit(url).scheme
        return Destination(
            url,
            protocol,
            {**credentials, **self.headers_of(signal)},
            self.compression_of(signal),
            self.timeout_s_of(signal),
            env.file(*_names(signal, "CERTIFICATE")),
            env.file(*_names(signal, "CLIENT_KEY")),
            env.file(*_names(signal, "CLIENT_CERTIFICATE")),
            is_insecure=scheme == "http" or (scheme != "https" and env.text_of(*insecure_names)[1].lower() == "true"),
        )

    def endpoint_of(self, signal: Signal) -> str | None:
        """The endpoint as given, or ``None``: the variable of the signal, the common one, then the argument."""
        name, value = env.text_of(*_names(signal, "ENDPOINT"))
        if value and not _is_address(value, self.protocol_of(signal)):
            example = _DEFAULT_ENDPOINTS[self.protocol_of(signal)]
            env.report_problem(f"{name} is not a valid URL: {without_credentials(value)!r}. Example: {example}")
            value = ""
        if value or self.endpoint is not None:
            return value or self.endpoint
        # Selected by name and without an endpoint, it is sent to the OpenTelemetry specification's default endpoint.
        is_selected = "otlp" in env.text_of(f"OTEL_{signal.upper()}_EXPORTER")[1].lower().split(",")
        return _DEFAULT_ENDPOINTS[self.protocol_of(signal)] if is_selected else None

    def _is_of_signal(self, signal: Signal) -> bool:
        """Whether the endpoint is the signal's own variable, which holds the whole URL."""
        return bool(env.text_of(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")[1])

    def headers_of(self, signal: Signal) -> dict[str, str]:
        """The headers of the argument, and over them those of the variable of the signal, or of the common one."""
        given = {name.lower(): str(value) for name, value in (self.headers or {}).items()}
        variable, text = env.text_of(*_names(signal, "HEADERS"))
        for number, entry in enumerate(filter(str.strip, text.split(",")), 1):
            name, _, value = entry.partition("=")
            name, value = unquote(name).strip().lower(), value.strip()
            if " " not in value:  # with one it is not encoded, as other SDKs have it
                value = unquote(value).strip()
            if "=" in entry and _is_header(name, value):
                given[name] = value
            else:  # not shown, as it may be a credential whose name was left out
                env.report_problem(
                    f"{variable}: entry {number} is ignored. It must be name=value, of visible ASCII characters and "
                    "spaces; encode others, such as %2C for a comma."
                )
        return given

    def compression_of(self, signal: Signal) -> str:
        """``none``, ``gzip`` or, over HTTP, ``deflate``."""
        allowed = ("none", "gzip") if self.protocol_of(signal) == "grpc" else ("none", "gzip", "deflate")
        return env.choice(_names(signal, "COMPRESSION"), allowed, "none")

    def timeout_s_of(self, signal: Signal) -> float:
        """Seconds of one request; 60 at most."""
        timeout_s = env.number(_names(signal, "TIMEOUT"), 10.0)
        if timeout_s > _TIMEOUT_MAX_S:
            env.report_problem(
                f"{env.text_of(*_names(signal, 'TIMEOUT'))[0]} is {timeout_s:g}: the unit is seconds and the maximum "
                f"{_TIMEOUT_MAX_S:g}, which is used."
            )
        return min(timeout_s, _TIMEOUT_MAX_S)

    def protocol_of(self, signal: Signal) -> Protocol:
        """The variable of the signal, the common one, then the argument."""
        default: Protocol = "grpc" if self.protocol == "grpc" else "http/protobuf"
        return env.choice(_names(signal, "PROTOCOL"), _PROTOCOLS, default)

    def exporters_of(self, signal: Signal) -> tuple[Exporter, ...]:
        """``OTEL_*_EXPORTER``, a list; without it ``otlp``. An empty tuple is none.

        Without an endpoint ``otlp`` is ``local``: spans are written to the local store, metrics and logs are not
        recorded.
        """
        name, value = env.text_of(f"OTEL_{signal.upper()}_EXPORTER")
        asked = [each.strip().lower() for each in (value or "otlp").split(",") if each.strip()]
        known: list[Exporter] = [each for each in _EXPORTERS if each in asked and each != "none"]
        if unknown := [each for each in asked if each not in _EXPORTERS]:
            used = ", ".join(known) or ("none" if "none" in asked else "otlp")
            env.report_problem(
                f"{name} has {', '.join(map(repr, unknown))}, which nodespan does not support; it can be "
                f"{', '.join(_EXPORTERS)}. {used} is used."
            )
            known = known or ([] if "none" in asked else ["otlp"])
        has_endpoint = self.endpoint_of(signal) is not None
        found: list[Exporter] = ["local" if each == "otlp" and not has_endpoint else each for each in known]
        return tuple(found)

    @property
    def is_disabled(self) -> bool:
        """``OTEL_SDK_DISABLED=true``: nothing is recorded."""
        return env.text_of("OTEL_SDK_DISABLED")[1].lower() == "true"

    @property
    def write_interval_s(self) -> float:
        """Time for which ended spans are collected before they are written; ``OTEL_BSP_SCHEDULE_DELAY`` is in ms."""
        return env.number(("OTEL_BSP_SCHEDULE_DELAY",), WRITE_INTERVAL_S * 1e3) / 1e3

    @property
    def running_after_s(self) -> float:
        """How long a span is open before it has a row in the store; ``NODESPAN_RUNNING_AFTER_MS`` is in ms.

        Raises:
            ConfigurationError: It is not a positive number.
        """
        return positive_variable("NODESPAN_RUNNING_AFTER_MS", AFTER_S * 1e3) / 1e3

    @property
    def queue_max(self) -> int:
        """Number of ended spans that may wait to be written."""
        return round(env.number(("OTEL_BSP_MAX_QUEUE_SIZE",), QUEUE_MAX))

    def report_unsupported(self) -> None:
        """Reports variables that other distributions read and nodespan does not."""
        for name in _UNSUPPORTED:
            if env.text_of(name)[1]:
                env.report_problem(f"{name} is set, and nodespan does not support it: it is ignored.")
        if (name := "OTEL_PROPAGATORS") in _import_variables.INVALID and env.text_of(name)[1]:
            env.report_problem(
                f"{name} is {_import_variables.INVALID[name]!r}, which names a propagator that is not installed. "
                "tracecontext,baggage is used."
            )


def _names(signal: Signal, what: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"


def _is_header(name: str, value: str) -> bool:
    """Whether HTTP and gRPC accept a header; both reject it at every request otherwise."""
    is_name = re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) is not None
    return is_name and value.isascii() and value.isprintable() and value == value.strip()


def _is_address(value: str, protocol: Protocol) -> bool:
    try:
        parts = urlsplit(value)
        if parts.scheme.lower() in {"http", "https"}:
            return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    # gRPC also accepts targets such as `host:4317` and `unix:/path`.
    return protocol == "grpc" and "://" not in value and (":" in value or value.isalnum())
