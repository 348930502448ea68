"""The real server of llama.cpp with the small model on one thread, for tests and benchmarks.

The package xllamacpp has llama-server as a library; this file is also the program that runs it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class LlamaServer:
    """Listens on loopback, computes on the processor. ``start`` waits until the model is loaded."""

    def __init__(self, model: Path, folder: Path, *, slots: int = 2, context: int = 1024) -> None:
        self.port = free_port()
        self.slots = slots
        self.log = folder / f"llama-server-{self.port}.log"
        options = {"model": str(model), "port": self.port, "slots": slots, "context": context, "folder": str(folder)}
        self._command = [sys.executable, __file__, json.dumps(options)]
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


def serve(*, model: str, port: int, slots: int, context: int, folder: str) -> None:
    """Runs the server until the process is killed."""
    from xllamacpp import CommonParams, Server  # only this process needs the large library

    params = CommonParams()
    params.model.path, params.n_gpu_layers = model, 0
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx, params.cpuparams.n_threads = slots, context * slots, 1
    params.endpoint_slots = params.endpoint_metrics = True
    params.ui, params.slot_save_path = False, folder
    _server = Server(params)  # listens as long as it exists
    threading.Event().wait()


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
