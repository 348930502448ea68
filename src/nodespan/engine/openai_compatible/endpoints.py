"""Addresses of model servers: their checks, and the choice among several."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from nodespan.engine.contract import Server
from nodespan.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodespan.types import ModelProfile

BASE_URL_VARIABLE: Final = "OPENAI_BASE_URL"
API_KEY_VARIABLE: Final = "OPENAI_API_KEY"
_PORTS: Final = {"http": 80, "https": 443}
_LEAST_SECRET: Final = 6
"""Shorter header values, such as ``1``, are not secrets and may occur anywhere in a text."""

_DOWN_S: Final = 5.0
"""How long a server that could not be reached is used last."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One server.

    Attributes:
        base_url: Such as ``http://127.0.0.1:8080/v1``, without a slash at the end.
        root_url: The same without ``/v1``, for paths that are not OpenAI's.
        busy: Requests to it in progress.
    """

    base_url: str
    root_url: str
    server: Server
    busy: int = 0
    down_until: float = 0.0


class Endpoints:
    """The servers of one profile. Used by one thread at a time."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.all: Final = tuple(endpoints)

    def choose(self, tried: Sequence[Endpoint]) -> Endpoint:
        """The least busy server; recently failed and already tried ones last."""
        now = time.monotonic()
        return min(self.all, key=lambda one: (one in tried, one.down_until > now, one.busy))

    @staticmethod
    def failed(endpoint: Endpoint) -> None:
        """Marks a server as unreachable for ``_DOWN_S``."""
        endpoint.down_until = time.monotonic() + _DOWN_S


def endpoints_of(profile: ModelProfile) -> list[Endpoint]:
    """The profile's servers, else the one in ``OPENAI_BASE_URL``.

    Raises:
        ConfigurationError: There is no server, or an address is invalid.
    """
    urls = profile.base_urls or tuple(filter(None, [os.environ.get(BASE_URL_VARIABLE, "").strip()]))
    if not urls:
        raise ConfigurationError(
            "This ModelProfile has no base_url. Give the address of a server: "
            f"ModelProfile(base_url='http://127.0.0.1:8080/v1', name='...'), or set {BASE_URL_VARIABLE}."
        )
    return [_endpoint(url) for url in urls]


def api_key_of(profile: ModelProfile) -> str | None:
    """The profile's key. ``OPENAI_API_KEY`` is sent to ``OPENAI_BASE_URL`` only."""
    if profile.api_key is not None:
        return profile.api_key.get_secret_value()
    return None if profile.base_url else os.environ.get(API_KEY_VARIABLE) or None


def secrets_of(profile: ModelProfile, api_key: str | None) -> tuple[str, ...]:
    """Texts that errors must not contain: a server's error may repeat a header."""
    values = [api_key or "", *profile.headers.values()]
    return tuple(value for value in values if len(value) >= _LEAST_SECRET)


def is_private(host: str) -> bool:
    """Whether a host is this machine or in a private network, as far as its name can be resolved."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    addresses = [ipaddress.ip_address(str(address).partition("%")[0]) for address in found]
    return bool(addresses) and all(address.is_private or address.is_loopback for address in addresses)


def propagates_to(host: str) -> bool:
    """Whether ``traceparent`` may be sent to a host: ``NODESPAN_PROPAGATE_HOSTS`` lists those, all if it is not set."""
    listed = os.environ.get("NODESPAN_PROPAGATE_HOSTS")
    if listed is None:
        return True
    names = [name.strip().lower() for name in listed.split(",")]
    host = host.lower()
    return any(name in {"*", host} or (name.startswith("*.") and host.endswith(name[1:])) for name in names)


def _endpoint(url: str) -> Endpoint:
    parts, port = _parts(url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "A base_url contains a user name or a password. Remove them and give "
            "ModelProfile(api_key=...) or ModelProfile(headers={'Authorization': '...'})."
        )
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(
            f"ModelProfile(base_url={url!r}) is not the address of a server. "
            "Give one such as 'http://127.0.0.1:8080/v1', without a query."
        )
    path = parts.path.rstrip("/") or "/v1"
    origin = f"{parts.scheme}://{parts.netloc}"
    return Endpoint(
        base_url=origin + path,
        root_url=origin + path.removesuffix("/v1"),
        server=Server(parts.hostname, port or _PORTS[parts.scheme]),
    )


def _parts(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:  # its message has parts of the address, which may contain a password
        raise ConfigurationError(
            "A base_url is not a valid URL. Give one such as 'http://127.0.0.1:8080/v1'."
        ) from None
    return parts, port
