"""Viewers for tests: in a process of its own, as a user starts it, and in a thread, which starts faster."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import httpx

from nodespan.store import SqliteStore
from nodespan.viewer.listener import bind
from nodespan.viewer.pages import Page
from nodespan.viewer.server import ViewerServer
from nodespan.viewer.settings import ViewerSettings

ADDRESS = re.compile(r"http://[^\s/#]+")
START_S = 30


class Viewer:
    """``with ViewerThread(store) as viewer: viewer.client.get("/runs.json")``; the client has the cookie.

    Attributes:
        base: Scheme, host and port.
        address: What `nodespan ui` prints: with the token.
        token: Empty without one.
        client: Has the cookie.
    """

    base: str
    address: str
    token: str
    client: httpx.Client

    def connect(self) -> None:
        self._clients: list[httpx.Client] = []
        self.client = self.new_client()
        if self.token:
            self.client.post("/session", json={"token": self.token}).raise_for_status()

    def new_client(self, **options: Any) -> httpx.Client:
        """A client without the cookie."""
        made = httpx.Client(
            base_url=self.base, timeout=30, trust_env=False, verify=False, **options
        )  # not to read certificates
        self._clients.append(made)
        return made

    def disconnect(self) -> None:
        for client in self._clients:
            client.close()


class ViewerThread(Viewer):
    """A real server on a real socket, in this process."""

    def __init__(self, store: SqliteStore, page: Page | None = None, **settings: Any) -> None:
        self.listener = bind("127.0.0.1", 0)
        self.settings = ViewerSettings(port=self.listener.getsockname()[1], **settings)
        self.base = f"http://127.0.0.1:{self.settings.port}"
        self.token = self.settings.token if self.settings.has_token else ""
        self.address = f"{self.base}/#token={self.token}" if self.token else self.base
        self._server = ViewerServer(store, self.settings, page)

    def __enter__(self) -> ViewerThread:
        self._thread = threading.Thread(target=self._server.run, args=(self.listener,))
        self._thread.start()
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()
        self._server.stop()
        self._thread.join(15)
        self.listener.close()
        assert not self._thread.is_alive(), "the server does not end"


class ViewerProcess(Viewer):
    """``nodespan ui``."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._command: Sequence[str] = [sys.executable, "-c", "from nodespan.cli import main; main()", "ui", *arguments]
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> ViewerProcess:
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline().strip() if ready else ""
        found = ADDRESS.match(line)
        if found is None:
            self.process.kill()
            raise AssertionError(f"no address: {line!r} {self.process.communicate()}")
        self.address = line
        self.base = found[0]
        self.token = line.partition("#token=")[2]
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()
        self.process.send_signal(signal.SIGINT)
        try:
            self.out, self.err = self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
