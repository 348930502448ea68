"""The viewer's process: a socket that is bound before the rest is imported, and uvicorn on it."""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from nodespan.errors import ConfigurationError
from nodespan.viewer.settings import DEFAULT_PORT

if TYPE_CHECKING:
    from nodespan.store import SqliteStore
    from nodespan.viewer.settings import ViewerSettings

_BACKLOG: Final = 128
_PORTS_TRIED: Final = 20
_SHUTDOWN_S: Final = 1


def bind(host: str, port: int | None) -> socket.socket:
    """Binds a socket; connections to it wait until the server runs.

    Args:
        host: Address or name.
        port: ``None``: the usual one, else the next that is free; 0: one that the system chooses.

    Raises:
        ConfigurationError: The address cannot be used, or the port is in use.
    """
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED) if port is None else (port,)
    for number in ports:
        try:
            return _bound(host, number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigurationError(f"{host} port {number} cannot be listened on: {error.strerror}.") from error
    which = f"Port {port} is" if port is not None else f"The ports {ports[0]} to {ports[-1]} are"
    raise ConfigurationError(f"{which} in use on {host}. Give another one, or 0 for any: nodespan ui --port 0")


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
    except BaseException:
        listener.close()
        raise
    return listener


def serve(listener: socket.socket, store: SqliteStore, settings: ViewerSettings) -> None:
    """Serves until the process is interrupted."""
    import uvicorn

    from nodespan.store import StoreReader
    from nodespan.viewer.app import create_app
    from nodespan.viewer.known_spans import KnownSpans
    from nodespan.viewer.live import Live
    from nodespan.viewer.pages import Page
    from nodespan.viewer.receiver import Receiver

    with StoreReader(store) as reader:
        live = Live(reader)
        app = create_app(reader, Page(), settings, live, Receiver(store, KnownSpans(reader)))
        # Nothing of a request is logged: addresses carry filters, which are names of users and conversations.
        logging.getLogger("uvicorn").addHandler(logging.NullHandler())
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http="h11",
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                live.close()  # a stream would hold the server until it is cut
                await super().shutdown(sockets)

        Server(config).run(sockets=[listener])
