"""The TLS set-up of a profile."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodespan.engine.openai_compatible.endpoints import Endpoint


def ssl_context(verify: bool | Path, endpoints: Iterable[Endpoint]) -> ssl.SSLContext | bool:
    """The ``verify`` argument of an httpx client for these servers.

    Loading the authorities costs tens of milliseconds. Without a server over TLS none are loaded: redirects are not
    followed, so there is nothing to verify.

    Raises:
        OSError: The file cannot be read.
    """
    if not verify or not any(endpoint.base_url.startswith("https:") for endpoint in endpoints):
        return False
    return ssl.create_default_context(cafile=str(verify) if isinstance(verify, Path) else None)
