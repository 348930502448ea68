"""A real server of LangGraph's protocol on loopback, for ``RemoteGraph``: it runs a graph for each request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from langgraph.types import Command, interrupt
from opentelemetry import context as context_api
from opentelemetry.propagate import extract


def works(state: Any) -> dict[str, Any]:
    """A node that writes."""
    return {"seen": ["worked"], "n": 1}


def asks(state: Any) -> dict[str, Any]:
    """A node that interrupts."""
    return {"seen": [interrupt("go on?")]}


def fails(state: Any) -> dict[str, Any]:
    """A node that raises."""
    raise ValueError("the remote node is down")


class RemoteServer:
    """Serves one graph, by runs that are streamed and by the protocol of threads (version v3 of event streams).

    Attributes:
        url: Of the server.
        headers: Those of each request.
        cancelled: Number of runs that a client has cancelled.
        events: Those of the last run of a thread; to be cleared before the next one.
    """

    def __init__(self, graph: Any) -> None:
        self.headers: list[dict[str, str]] = []
        self.cancelled = 0
        self.events: list[dict[str, Any]] = []
        self._ended = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                body = json.loads(self.rfile.read(int(self.headers["content-length"])) or "null")
                if self.path.endswith("/commands"):
                    self._answer(
                        {"id": body["id"], "type": "success", "result": outer._started(graph, body, self.path)}
                    )
                    return
                if "/cancel" in self.path:
                    outer.cancelled += 1
                    self._answer(None)
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                if self.path.endswith("/stream/events"):
                    outer._send_events(self.wfile, body)
                    return
                token = context_api.attach(extract(outer.headers[-1], context_api.Context()))
                try:
                    for event, data in _events(graph, self.path, body):
                        text = json.dumps(data, default=_plain)
                        self.wfile.write(f"event: {event}\ndata: {text}\n\n".encode())
                except ConnectionError:  # the client has disconnected
                    pass
                finally:
                    context_api.detach(token)

            def do_GET(self) -> None:
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                thread_id = self.path.split("/")[2]
                self._answer({"values": graph.get_state({"configurable": {"thread_id": thread_id}}).values})

            def _answer(self, value: Any) -> None:
                text = json.dumps(value, default=_plain).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _started(self, graph: Any, command: dict[str, Any], path: str) -> dict[str, Any]:
        """Executes a run, whose events are then read by any number of streams."""
        given = command["params"]
        config = {"configurable": {"thread_id": path.split("/")[2]}}
        waits = bool(graph.get_state(config).next)
        run_input = Command(resume=given["input"]) if waits else given.get("input")
        token = context_api.attach(extract(self.headers[-1], context_api.Context()))
        try:
            for values in graph.stream(run_input, config, stream_mode="values"):
                self._add("values", values)
        except Exception as error:
            self._add("lifecycle", {"event": "failed", "error": str(error)})
        else:
            if interrupts := graph.get_state(config).interrupts:
                self._add("input.requested", {"interrupt_id": interrupts[0].id, "value": interrupts[0].value})
            else:
                self._add("lifecycle", {"event": "completed"})
        finally:
            context_api.detach(token)
        return {"run_id": str(uuid4())}

    def _add(self, method: str, data: Any) -> None:
        params = {"namespace": [], "data": data}
        self.events.append({"type": "event", "seq": len(self.events), "method": method, "params": params})

    def _send_events(self, file: Any, body: dict[str, Any]) -> None:
        channels = {"input.requested" if name == "input" else name for name in body["channels"]}
        sent = body.get("since", -1)
        try:
            while not self._ended.is_set():
                for event in self.events[sent + 1 :]:
                    sent = event["seq"]
                    if event["method"] in channels:
                        text = json.dumps(event, default=_plain)
                        file.write(f"event: {event['method']}\ndata: {text}\n\n".encode())
                    if event["method"] == "lifecycle":
                        return
                file.write(b": the run goes on\n\n")
                self._ended.wait(0.01)
        except ConnectionError:  # the client has left
            pass

    @contextmanager
    def serving(self) -> Iterator[RemoteServer]:
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
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
