"""A viewer in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import httpx

ADDRESS = re.compile(r"http://[^\s/#]+")
START_S = 30


class ViewerProcess:
    """``with ViewerProcess() as viewer: viewer.client.get("/runs.json")``; the client has the cookie.

    Attributes:
        address: The printed address.
        base: Its scheme, host and port.
        token: Its token; empty without one.
    """

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
        self.client = self.new_client()
        if self.token:
            self.client.post("/session", json={"token": self.token}).raise_for_status()
        return self

    def new_client(self, **options: Any) -> httpx.Client:
        """A client without the cookie."""
        return httpx.Client(base_url=self.base, timeout=30, trust_env=False, **options)

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        try:
            self.out, self.err = self.process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
