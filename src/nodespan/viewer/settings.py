"""Address of the viewer, and access to it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from nodespan.errors import ConfigurationError

DEFAULT_PORT: Final = 7433
LOOPBACK: Final = "127.0.0.1"
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine in a ``Host`` header: no other site's name leads to a browser that sends one of them."""


def _secret() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class ViewerSettings:
    """Address of the viewer, and access to it.

    Attributes:
        host: Address to listen on.
        port: Port; the cookie is named after it.
        allowed_hosts: Further names and addresses that a ``Host`` header may have.
        has_token: Documents require the token. ``False`` is allowed on loopback only.
        jaeger_url: Template of a span's address in Jaeger, with ``{trace_id}`` and ``{span_id}``; empty: no link.
        token: Of the printed address.
        session: Value of the cookie.
    """

    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    allowed_hosts: frozenset[str] = frozenset()
    has_token: bool = True
    jaeger_url: str = ""
    token: str = field(default_factory=_secret, repr=False)
    session: str = field(default_factory=_secret, repr=False)

    def __post_init__(self) -> None:
        """Checks that the token is needed beyond loopback.

        Raises:
            ConfigurationError: The token is switched off beyond loopback, or no name is allowed for another address.
        """
        if self.is_loopback:
            return
        if not self.has_token:
            raise ConfigurationError(
                f"--no-token is for loopback only, and --host {self.host} can be reached by other machines. "
                "Leave out one of the two."
            )
        if _is_any_address(self.host) and not self.allowed_hosts:
            raise ConfigurationError(
                f"--host {self.host} listens on every address. Give the names or addresses that browsers use: "
                "--allow-host NAME, once for each."
            )

    @property
    def is_loopback(self) -> bool:
        """The viewer listens on loopback only."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> frozenset[str]:
        """Names that a ``Host`` header may have, in lower case, without port and brackets."""
        own = () if _is_any_address(self.host) else (self.host,)
        return LOOPBACK_NAMES | {name.lower().strip("[]") for name in (*own, *self.allowed_hosts)}

    @property
    def cookie(self) -> str:
        """Name of the cookie: browsers share cookies between the ports of a host."""
        return f"nodespan-{self.port}"

    @property
    def address(self) -> str:
        """The address without the token, such as ``http://127.0.0.1:7433``."""
        host = next(iter(sorted(self.allowed_hosts))) if _is_any_address(self.host) else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def _is_any_address(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
