"""A true llama-server with the small model on two threads, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
BINARY = Path(sys.executable).with_name("llama-server-vulkan")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class LlamaServer:
    """Listens on loopback, computes on the processor. ``start`` waits until the model is loaded."""

    def __init__(self, model: Path, folder: Path, *, slots: int = 2, context: int = 1024) -> None:
        self.port = free_port()
        self.slots = slots
        self.log = folder / f"llama-server-{self.port}.log"
        self._command = [
            str(BINARY), "-m", str(model), "-ngl", "0", "--host", "127.0.0.1", "--port", str(self.port),
            "-np", str(slots), "-c", str(context * slots), "-t", "1", "--slots", "--metrics", "--no-webui",
            "--slot-save-path", str(folder),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> LlamaServer:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        until = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < until, self.log.read_text()[-2000:]
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        try:
            return bool(self.get("/health")["status"] == "ok")
        except OSError:
            return False

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return json.load(answer)

    def busy(self) -> int:
        return sum(slot["is_processing"] for slot in self.get("/slots"))

    def erase(self) -> None:
        """Empties the slots' caches."""
        for slot in range(self.slots):
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}/slots/{slot}?action=erase", data=b"{}", method="POST"
            )
            urllib.request.urlopen(request, timeout=5).close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> LlamaServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
