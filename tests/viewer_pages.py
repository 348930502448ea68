"""Pages of the viewer without a browser: what they have read and what has changed since."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import httpx

from viewer_process import Viewer

PATIENCE_S = 60


class Events(threading.Thread):
    """A page: reads ``/events`` until the end of its block.

    Attributes:
        found: Id and data of each event, in order.
        pings: Number of comments.
    """

    def __init__(self, viewer: Viewer, headers: dict[str, str] | None = None, **query: str) -> None:
        super().__init__(daemon=True)
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.pings = 0
        self._opened = threading.Event()
        # A connection of its own: one that is closed in the middle of an answer is of no further use.
        self._client = httpx.Client(
            base_url=viewer.base, cookies=viewer.client.cookies, timeout=PATIENCE_S, trust_env=False, verify=False
        )
        self._request = self._client.build_request("GET", "/events", params=query, headers=headers)

    def __enter__(self) -> Events:
        self._answer = self._client.send(self._request, stream=True)
        assert self._answer.status_code == 200, self._answer.read()
        assert self._answer.headers["content-type"].startswith("text/event-stream")
        self.start()
        assert self._opened.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        socket = self._answer.extensions["network_stream"].get_extra_info("socket")
        with contextlib.suppress(OSError):  # the server was first
            socket.shutdown(2)
        self.join(PATIENCE_S)
        self._answer.close()
        self._client.close()
        assert not self.is_alive()

    def run(self) -> None:
        pending = b""
        with contextlib.suppress(httpx.TransportError):
            for chunk in self._answer.iter_raw():
                pending += chunk
                while b"\n\n" in pending:
                    event, _, pending = pending.partition(b"\n\n")
                    self._take(event.decode())

    def _take(self, event: str) -> None:
        if event.startswith(":"):
            self.pings += 1
            self._opened.set()
            return
        fields = dict(line.split(": ", 1) for line in event.split("\n"))
        assert fields["event"] == "changes"
        self.found.append((fields["id"], json.loads(fields["data"])))

    def states(self) -> dict[str, str]:
        """The list that a page has now: state by the trace's name."""
        listed: dict[str, dict[str, Any]] = {}
        for _, data in list(self.found):
            listed |= {trace["trace_id"]: trace for trace in data["traces"]}
            for gone in data["gone"]:
                listed.pop(gone, None)
        return {trace["name"]: trace["state"] for trace in listed.values()}


class Drawn:
    """The spans that a page has of a trace: a document, and the changes since."""

    def __init__(self, viewer: Viewer, trace: str) -> None:
        self.document = viewer.client.get(f"/trace/{trace}.json").json()
        self.spans: dict[str, dict[str, Any]] = {}
        self.seen = 0
        self._take(self.document)

    def events(self, viewer: Viewer, **headers: str) -> Events:
        document = self.document
        return Events(
            viewer, headers, cursor=document["cursor"], trace=document["trace"]["trace_id"], t0=document["t0_ns"]
        )

    def after(self, events: Events) -> dict[str, int]:
        """State of each span by its name, after all events so far."""
        for _, delta in events.found[self.seen :]:
            self.seen += 1
            self._take(delta)
            if delta["open"] is not None:
                for span_id, known in self.spans.items():
                    assert known["state"] in (0, 3) or span_id in delta["open"], (known, delta)
        return {known["name"]: known["state"] for known in self.spans.values()}

    def _take(self, document: dict[str, Any]) -> None:
        spans, strings = document["spans"], document["strings"]
        for i in range(spans["n"]):
            one = {key: column[i] for key, column in spans.items() if key != "n"}
            self.spans[one["id"]] = {**one, "name": strings[one["name"]]}


def cursor_of(viewer: Viewer) -> str:
    return viewer.client.get("/runs.json").json()["cursor"]
