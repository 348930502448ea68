"""A real OTLP receiver on a real socket, over HTTP and gRPC, with failures on request."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from nodespan.otlp import SpanRecord, decode_batch

Answer = tuple[int, dict[str, str], bytes]
Misbehaviour = Callable[[BaseHTTPRequestHandler], None]
"""Called with the handler of a request after its headers were read; the connection is closed afterwards."""


class OtlpReceiver:
    """``with OtlpReceiver() as receiver: ...``: decodes requests to ``receiver.endpoint``.

    Attributes:
        spans, metrics, log_records: Accepted data.
        received: Each accepted span with the headers of its request.
        answers: The next responses, one per request, before it accepts again: over HTTP a status, headers, body, or a
            handler that misbehaves; over gRPC a status code and details, or a response.
        requests: Headers of every request, with its path as ``:path``.
        arrivals: Time of each request, on the monotonic clock.
        delay_s: Delay of each answer.
        max_bytes: It rejects larger requests.
        poison: It responds with 500 to requests that contain these bytes.

    Args:
        certificate: Paths of a key and of a certificate chain: with them it uses TLS.
        host: Address that it listens on.
    """

    def __init__(
        self,
        protocol: str = "http/protobuf",
        port: int = 0,
        certificate: tuple[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.protocol = protocol
        self.certificate = certificate
        self.delay_s = 0.0
        self.max_bytes: int | None = None
        self.poison: bytes | None = None
        self.arrivals: list[float] = []
        self.spans: list[SpanRecord] = []
        self.received: list[tuple[SpanRecord, dict[str, str]]] = []
        self.metrics: list[Any] = []
        self.log_records: list[Any] = []
        self.answers: deque[Any] = deque()
        self.requests: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self._host = host
        self._port = port
        self._stop: Callable[[], None] = lambda: None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self._netloc}"

    @property
    def _netloc(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def __enter__(self) -> OtlpReceiver:
        if self.protocol == "grpc":
            self._serve_grpc()
        else:
            self._serve_http()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def wait_for(self, condition: Callable[[OtlpReceiver], bool], timeout_s: float = 10.0) -> None:
        """Polls until the condition holds; otherwise fails with what has arrived."""
        deadline = time.monotonic() + timeout_s
        while not condition(self):
            if time.monotonic() > deadline:
                raise AssertionError(f"not so after {timeout_s} s: {[span.name for span in self.spans]}")
            time.sleep(0.02)

    def accept(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        with self._lock:
            if path.endswith("traces"):
                spans = list(decode_batch(body))
                self.spans.extend(spans)
                self.received.extend((span, headers) for span in spans)
                return trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
            if path.endswith("metrics"):
                request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
                for of_resource in request.resource_metrics:
                    for of_scope in of_resource.scope_metrics:
                        self.metrics.extend(of_scope.metrics)
                return metrics_service_pb2.ExportMetricsServiceResponse().SerializeToString()
            records = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
            for of_resource in records.resource_logs:
                for of_scope in of_resource.scope_logs:
                    self.log_records.extend(of_scope.log_records)
            return logs_service_pb2.ExportLogsServiceResponse().SerializeToString()

    def _answer(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        if self.answers:
            return self.answers.popleft()
        if self.poison is not None and self.poison in body:
            return 500, {}, b"panic"
        if self.max_bytes is not None and len(body) > self.max_bytes:
            return 413, {}, b""
        return 200, {}, self.accept(path, body, headers)

    def _serve_http(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else a client waits 40 ms for the body of each answer

            def do_POST(self) -> None:
                receiver.arrivals.append(time.monotonic())
                if receiver.answers and callable(receiver.answers[0]):
                    self.close_connection = True
                    receiver.answers.popleft()(self)
                    return
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(receiver.delay_s)
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = {":path": self.path, **{k.lower(): v for k, v in self.headers.items()}}
                receiver.requests.append(request)
                status, headers, answer = receiver._answer(self.path, body, request)
                self.send_response(status)
                for name, value in {"Content-Type": "application/x-protobuf", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in self._host else socket.AF_INET

        server = Server((self._host, self._port), Handler)
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate[1], self.certificate[0])
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self._port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop

    def _serve_grpc(self) -> None:
        limit = [("grpc.max_receive_message_length", self.max_bytes)] if self.max_bytes is not None else []
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=limit)
        services = (
            (trace_service_pb2_grpc, "Trace", trace_service_pb2, "traces"),
            (metrics_service_pb2_grpc, "Metrics", metrics_service_pb2, "metrics"),
            (logs_service_pb2_grpc, "Logs", logs_service_pb2, "logs"),
        )
        for module, name, messages, path in services:
            servicer = type(
                name, (getattr(module, f"{name}ServiceServicer"),), {"Export": self._export(messages, name, path)}
            )
            getattr(module, f"add_{name}ServiceServicer_to_server")(servicer(), server)
        address = self._netloc
        if self.certificate:
            key, chain = (Path(path).read_bytes() for path in self.certificate)
            self._port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
        else:
            self._port = server.add_insecure_port(address)
        server.start()
        self._stop = lambda: server.stop(None).wait()

    def _export(self, messages: Any, name: str, path: str) -> Callable[..., Any]:
        response = getattr(messages, f"Export{name}ServiceResponse")

        def export(_self: object, request: Any, context: Any) -> Any:
            self.arrivals.append(time.monotonic())
            self.requests.append({":path": path, **dict(context.invocation_metadata())})
            time.sleep(self.delay_s)
            if self.answers:
                answer = self.answers.popleft()
                if isinstance(answer, response):
                    return answer
                context.abort(*answer)
            self.accept(path, request.SerializeToString(), self.requests[-1])
            return response()

        return export
