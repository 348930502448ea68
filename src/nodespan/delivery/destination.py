"""The destination of a program's spans, and its identity."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

Protocol = Literal["http/protobuf", "grpc"]
Signal = Literal["traces", "metrics", "logs"]

_AUTHENTICATION: Final = ("authorization", "cookie", "key", "token", "secret", "tenant", "orgid", "org-id", "project")
"""Parts of the names of headers that select an account or a tenant: such headers are part of the identity."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Destination:
    """An OTLP receiver and its access. ``repr`` shows no credentials.

    Attributes:
        endpoint: URL of the requests without user information; with gRPC also ``host:port`` and ``unix:`` targets.
        headers: Sent with each request, names in lower case.
        compression: ``none``, ``gzip`` or ``deflate``.
        timeout_s: Longest time of one request.
        certificate: Path of a PEM file with trusted authorities; the system's if ``None``.
        client_key, client_certificate: Paths of PEM files; ``None`` without a client certificate.
        is_insecure: gRPC without TLS.
    """

    endpoint: str
    protocol: Protocol = "http/protobuf"
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    compression: str = "none"
    timeout_s: float = 10.0
    certificate: str | None = None
    client_key: str | None = field(default=None, repr=False)
    client_certificate: str | None = None
    is_insecure: bool = False

    @property
    def label(self) -> str:
        """The endpoint as it is shown: without user information, query and fragment, which may contain credentials."""
        parts = urlsplit(self.endpoint)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")) if parts.netloc else self.endpoint

    def identity(self, secret: bytes) -> str:
        """A keyed hash of endpoint, protocol, credentials and client certificate: 32 hex digits.

        Two programs with the same identity may send each other's spans. Other headers, compression and timeouts do not
        count.

        Args:
            secret: Key of the store that holds the spans.
        """
        headers = {name: value for name, value in self.headers.items() if any(part in name for part in _AUTHENTICATION)}
        facts = [self.endpoint, self.protocol, sorted(headers.items()), self.client_certificate, self.client_key]
        return hmac.new(secret, json.dumps(facts).encode(), hashlib.sha256).hexdigest()[:32]


def normalised(endpoint: str) -> tuple[str, dict[str, str]]:
    """The normalised endpoint, and the ``authorization`` header of its user information.

    Scheme and host become lower case; the scheme's default port and a trailing slash are left out.
    """
    parts = urlsplit(endpoint)
    if not parts.netloc:
        return endpoint, {}
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme.lower())) else f":{parts.port}"
    url = urlunsplit(SplitResult(parts.scheme.lower(), host + port, parts.path.rstrip("/"), parts.query, ""))
    if parts.username is None:
        return url, {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return url, {"authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def without_credentials(endpoint: str) -> str:
    """The endpoint without credentials."""
    return Destination(normalised(endpoint)[0]).label
