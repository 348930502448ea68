"""A real server of LangGraph's protocol on loopback, for ``RemoteGraph``: it runs a graph for each request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

from langgraph.types import Command
from opentelemetry import context as context_api
from opentelemetry.propagate import extract


class RemoteServer:
    """Serves one graph.

    Attributes:
        url: Of the server.
        headers: Those of each request.
    """

    def __init__(self, graph: Any) -> None:
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                token = context_api.attach(extract(outer.headers[-1], context_api.Context()))
                try:
                    for event, data in _events(graph, self.path, body):
                        text = json.dumps(data, default=_plain)
                        self.wfile.write(f"event: {event}\ndata: {text}\n\n".encode())
                except ConnectionError:  # the client has disconnected
                    pass
                finally:
                    context_api.detach(token)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[RemoteServer]:
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def _events(graph: Any, path: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    given = body.get("input")
    if (command := body.get("command")) is not None:
        given = Command(resume=command["resume"])
    config = dict(body.get("config") or {})
    thread_id = path.split("/")[2] if path.startswith("/threads/") else str(uuid4())
    config["configurable"] = {**(config.get("configurable") or {}), "thread_id": thread_id}
    try:
        yield from graph.stream(given, config, stream_mode=body["stream_mode"])
    except Exception as error:
        yield "error", {"error": type(error).__name__, "message": str(error)}


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value.__dict__
