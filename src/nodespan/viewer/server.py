"""The viewer on uvicorn."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Final

import uvicorn

from nodespan.errors import StoreError
from nodespan.store import StoreReader
from nodespan.viewer.app import create_app
from nodespan.viewer.known_spans import KnownSpans
from nodespan.viewer.live import Live
from nodespan.viewer.pages import Page
from nodespan.viewer.receiver import Receiver

if TYPE_CHECKING:
    import socket

    from nodespan.store import SqliteStore
    from nodespan.viewer.settings import ViewerSettings

_SHUTDOWN_S: Final = 1
_FILL_S: Final = 0.05
"""Time for which a request may fill the index before it is answered from the indexed spans."""


class ViewerServer:
    """The viewer of a store on uvicorn.

    Args:
        store: Read, and written to by the receiver.
        settings: Address and access.
        page: Another page than the package's.
        accepts_spans: Spans may be sent to ``/v1/traces``.
    """

    def __init__(
        self, store: SqliteStore, settings: ViewerSettings, page: Page | None = None, *, accepts_spans: bool = True
    ) -> None:
        self._reader = StoreReader(store, fill_s=_FILL_S)
        live = Live(self._reader)
        receiver = Receiver(store, KnownSpans(self._reader)) if accepts_spans else None
        app = create_app(self._reader, page or Page(), settings, live, receiver)
        # Requests are not logged: addresses contain filters, with names of users and conversations.
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

        self._server = Server(config)

    def run(self, listener: socket.socket) -> None:
        """Serves until ``stop``, SIGINT or SIGTERM; fills the index meanwhile, newest spans first."""
        threading.Thread(target=self._fill, name="nodespan-index", daemon=True).start()
        try:
            self._server.run(sockets=[listener])
        finally:
            self._server.should_exit = True
            self._reader.close()

    def stop(self) -> None:
        """Ends ``run`` within about 0.1 s; from any thread."""
        self._server.should_exit = True

    def _fill(self) -> None:
        with contextlib.suppress(StoreError):  # the answers to requests report it
            while not self._server.should_exit and not self._reader.fill(_FILL_S):
                pass
