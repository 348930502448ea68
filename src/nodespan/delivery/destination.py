"""The destination of a program's spans, and its identity."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping

Protocol = Literal["http/protobuf", "grpc"]
Signal = Literal["traces", "metrics", "logs"]

_ACCOUNT: Final = re.compile(
    "auth|cookie|credential|dsn|key|pass|secret|token"
    "|account|database|dataset|org(?!in|i[cn])|project|space|stream|team|tenant|user(?!-agent)"
)
"""Parts of the names of headers that authenticate or select an account, or a part of one. Such headers are part of the
identity. Vendors differ: Honeycomb's key is ``x-honeycomb-team``, Uptrace's ``uptrace-dsn``."""
_TOKEN: Final = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.~%+=-]{20,}")
"""A path segment that is not shown: some vendors put the credential there."""
_SECRET_MIN: Final = 4
"""Shorter header values may occur in ordinary messages."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, repr=False)
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
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    compression: str = "none"
    timeout_s: float = 10.0
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    is_insecure: bool = False

    @property
    def label(self) -> str:
        """The endpoint as it is shown: without user information, query and fragment, which may contain credentials."""
        return without_credentials(self.endpoint)

    @override
    def __repr__(self) -> str:
        return f"Destination({self.label!r}, {self.protocol!r})"

    def identity(self, secret: bytes) -> str:
        """A keyed hash of endpoint, protocol, TLS, credentials and client certificate: 32 hex digits.

        Two programs with the same identity may send each other's spans. Other headers, compression and timeouts do not
        count.

        Args:
            secret: Key of the store that holds the spans.
        """
        if self.protocol == "grpc":  # it uses only the target of a URL, without the scheme
            address = [urlsplit(self.endpoint).netloc or self.endpoint, self.is_insecure]
        else:
            address = [self.endpoint]
        # Symbolic links are not resolved, because a renewal may exchange them.
        files = [path and str(Path(path).absolute()) for path in (self.client_certificate, self.client_key)]
        facts = [address, self.protocol, sorted(self._account().items()), *files]
        return hmac.new(secret, json.dumps(facts).encode(), hashlib.sha256).hexdigest()[:32]

    def masked(self, text: str) -> str:
        """The text of an error or an answer without this destination's credentials, which it may repeat."""
        text = text.replace(self.endpoint, self.label)
        secrets = {part for value in self._account().values() for part in (value, value.rpartition(" ")[2])}
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SECRET_MIN:
                text = text.replace(secret, "***")
        return text

    def _account(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if _ACCOUNT.search(name)}


def normalised(endpoint: str) -> tuple[str, dict[str, str]]:
    """The normalised endpoint, and the ``authorization`` header of its user information.

    Scheme and host become lower case; the scheme's default port and a trailing slash are left out.

    Args:
        endpoint: A valid URL, or a target of gRPC.
    """
    parts = urlsplit(endpoint)
    if not parts.netloc:
        user, at, target = endpoint.rpartition("@")
        return (target, _basic(*user.partition(":")[::2])) if at else (endpoint, {})
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme.lower())) else f":{parts.port}"
    url = urlunsplit(SplitResult(parts.scheme.lower(), host + port, parts.path.rstrip("/"), parts.query, ""))
    return url, {} if parts.username is None else _basic(parts.username, parts.password or "")


def _basic(user: str, password: str) -> dict[str, str]:
    credentials = f"{unquote(user)}:{unquote(password)}"
    return {"authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def without_credentials(endpoint: str) -> str:
    """The endpoint as it is shown; it may be invalid.

    Without user information, query, fragment, and segments of the path that look like a token.
    """
    before, _, rest = endpoint.rpartition("@")  # not by urlsplit: a password may have any character
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", before) if before else None
    shown = (scheme[0] if scheme else "") + re.split("[?#]", rest, maxsplit=1)[0]
    start, separator, place = shown.rpartition("://")
    host, *path = place.split("/")
    return start + separator + "/".join([host, *("..." if _TOKEN.fullmatch(part) else part for part in path)])
