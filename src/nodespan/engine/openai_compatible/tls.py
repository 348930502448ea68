"""The TLS set-up of a profile."""

from __future__ import annotations

import ssl
from pathlib import Path


def ssl_context(verify: bool | Path) -> ssl.SSLContext | bool:
    """What httpx takes as ``verify``.

    Raises:
        OSError: The file cannot be read.
    """
    return ssl.create_default_context(cafile=str(verify)) if isinstance(verify, Path) else verify
