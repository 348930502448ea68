"""An OTLP receiver in a separate process, so that its cost is not counted."""

from __future__ import annotations

import gzip
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

BODIES_MAX = 1000


class Receiver:
    """``with Receiver() as receiver``: accepts everything. ``endpoint`` is its address."""

    def __enter__(self) -> Receiver:
        self._process = subprocess.Popen([sys.executable, "-m", "bench.receiver"], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def spans(self) -> int:
        """Number of spans received since the last call."""
        with urllib.request.urlopen(f"{self.endpoint}/spans", timeout=60) as answer:
            return int(answer.read())


class Handler(BaseHTTPRequestHandler):
    """Stores received requests; decodes them when their number is requested, or when they are many."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bodies: list[bytes] = []  # noqa: RUF012 the process has one server
    counted = 0

    def do_POST(self) -> None:
        """Accepts any request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/traces"):
            self.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        self._answer(b"", "application/x-protobuf")
        if len(self.bodies) > BODIES_MAX:
            self._count()

    def do_GET(self) -> None:
        """Returns the number of spans."""
        self._count()
        spans, Handler.counted = Handler.counted, 0
        self._answer(str(spans).encode(), "text/plain")

    def _count(self) -> None:
        while self.bodies:
            request = ExportTraceServiceRequest.FromString(self.bodies.pop())
            of_scopes = (scope for resource in request.resource_spans for scope in resource.scope_spans)
            Handler.counted += sum(len(scope.spans) for scope in of_scopes)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
