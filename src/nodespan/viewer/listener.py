"""The socket of the viewer, bound before the server is imported: a browser that connects meanwhile waits."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from nodespan.errors import ConfigurationError
from nodespan.viewer.settings import DEFAULT_PORT

_BACKLOG: Final = 128
_PORTS_TRIED: Final = 20


def bind(host: str, port: int | None) -> socket.socket:
    """Binds a socket; connections to it wait until the server runs.

    Args:
        host: Address or name.
        port: ``None``: the default one, else the next free one; 0: one that the system chooses.

    Raises:
        ConfigurationError: The address cannot be used, or the port is in use.
    """
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED) if port is None else (port,)
    for number in ports:
        try:
            return _bound(host, number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigurationError(f"Cannot listen on {host} port {number}: {error.strerror}.") from error
    which = f"Port {port} is" if port is not None else f"The ports {ports[0]} to {ports[-1]} are"
    raise ConfigurationError(
        f"{which} in use on {host}. Give another one, or 0 for any free port: nodespan ui --port 0"
    )


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigurationError(f"--host {host} is not an address of this machine: {error.strerror}.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would share the port with another program
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:  # also an interrupt: the socket is closed
        listener.close()
        raise
    return listener
