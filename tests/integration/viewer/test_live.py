"""What a page sees while programs run: changes as server-sent events, resumed where it stood."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batches import encoded, span, trace_id, write
from nodespan.store import SqliteStore
from running import until
from viewer_process import Viewer, ViewerProcess, ViewerThread

PROGRAM = Path(__file__).with_name("live_program.py")
PATIENCE_S = 60


class Events(threading.Thread):
    """A page: reads ``/events`` until it is left.

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
            base_url=viewer.base, cookies=viewer.client.cookies, timeout=PATIENCE_S, trust_env=False
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


@contextlib.contextmanager
def program(name: str, seconds: float, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program and its trace id."""
    started = subprocess.Popen(
        [sys.executable, str(PROGRAM), name, str(seconds), *options], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    try:
        yield started, started.stdout.readline().strip()
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def cursor_of(viewer: Viewer) -> str:
    return viewer.client.get("/runs.json").json()["cursor"]


def test_two_programs_are_seen_from_their_start_to_their_end(viewer: ViewerThread) -> None:
    with Events(viewer, cursor=cursor_of(viewer)) as events, program("one", 2) as one, program("two", 2) as two:
        until(events.states, {"run one": "running", "run two": "running"})
        until(events.states, {"run one": "ended", "run two": "ended"})
        for _, trace in (one, two):
            document = viewer.client.get(f"/trace/{trace}.json").json()
            assert document["spans"]["n"] == 5
            assert set(document["spans"]["state"]) == {0}


def test_a_trace_is_drawn_node_by_node_while_it_runs(viewer: ViewerThread) -> None:
    with program("one", 4) as (_, trace):
        until(lambda: viewer.client.get(f"/trace/{trace}.json").status_code, 200)
        drawn = Drawn(viewer, trace)
        with drawn.events(viewer) as events:
            seen: list[dict[str, int]] = []

            def now() -> bool:
                if (states := drawn.after(events)) not in seen[-1:]:
                    seen.append(states)
                return states == {"run one": 0, **{f"node {i}": 0 for i in range(4)}}

            until(now, True)
    assert {"run one": 1, "node 0": 0, "node 1": 0, "node 2": 1} in seen, seen
    final = viewer.client.get(f"/trace/{trace}.json").json()
    assert final["t0_ns"] == drawn.document["t0_ns"]
    assert {one["id"]: (one["start"], one["duration"]) for one in drawn.spans.values()} == dict(
        zip(
            final["spans"]["id"],
            zip(final["spans"]["start"], final["spans"]["duration"], strict=True),
            strict=True,
        )
    )
    parents = {one["name"]: one.get("parent_id") for one in drawn.spans.values() if "parent_id" in one}
    assert parents["node 3"] == next(one["id"] for one in drawn.spans.values() if one["name"] == "run one")


def test_a_killed_program_is_shown_as_lost(viewer: ViewerThread) -> None:
    with program("one", 1, "hang") as (started, trace):
        until(lambda: viewer.client.get(f"/trace/{trace}.json").status_code, 200)
        drawn = Drawn(viewer, trace)
        with drawn.events(viewer) as events, Events(viewer, cursor=cursor_of(viewer)) as listed:
            ended = {f"node {i}": 0 for i in range(4)}
            until(lambda: drawn.after(events), {"run one": 1, **ended})
            os.kill(started.pid, signal.SIGKILL)
            until(lambda: drawn.after(events), {"run one": 3, **ended})
            until(listed.states, {"run one": "lost"})
    assert viewer.client.get(f"/trace/{trace}.json").json()["trace"]["state"] == "lost"


def test_a_page_that_returns_gets_what_it_has_missed(viewer: ViewerThread, store: SqliteStore) -> None:
    write(store, span(1, 0, 1, 2))
    with Events(viewer, cursor=cursor_of(viewer)) as events:
        write(store, span(2, 0, 2, 3))
        until(lambda: len(events.found), 1)
        last = events.found[-1][0]
    for number in range(3, 40):
        write(store, span(number, 0, number, number + 1))
    # The header of the browser, not the address of the page that it loaded long ago.
    with Events(viewer, {"last-event-id": last}, cursor="x.0.") as events:
        write(store, span(40, 0, 40, 41))
        until(lambda: set(events.states()), {f"span 0 of {number}" for number in range(3, 41)})


def test_a_trace_that_no_longer_matches_the_filter_is_gone(viewer: ViewerThread) -> None:
    with Events(viewer, cursor=cursor_of(viewer), running="1") as events, program("one", 1):
        until(events.states, {"run one": "running"})
        until(events.states, {})
        assert events.found[-1][1]["gone"]


def test_a_list_with_a_filter_gets_no_other_runs(viewer: ViewerThread, store: SqliteStore) -> None:
    with Events(viewer, cursor=cursor_of(viewer), service="shop") as events:
        write(store, span(1, 0, 1, 2), service="desk")
        write(store, span(2, 0, 2, 3), service="shop")
        until(events.states, {"span 0 of 2": "ended"})


def test_a_replaced_store_is_a_reset(viewer: ViewerThread, store: SqliteStore) -> None:
    write(store, span(1, 0, 1, 2))
    drawn = Drawn(viewer, trace_id(1))
    with Events(viewer, cursor=cursor_of(viewer)) as listed, drawn.events(viewer) as events:
        store.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{store.path}{suffix}").unlink(missing_ok=True)
        write(store, span(2, 0, 1, 2))
        until(lambda: any(data["is_reset"] for _, data in listed.found), True)
        until(lambda: [data for _, data in events.found], [{"is_reset": True}])
        write(store, span(3, 0, 1, 2))
        until(lambda: "span 0 of 3" in listed.states(), True)


@pytest.mark.parametrize("query", [{"cursor": "x"}, {"cursor": "a.b.c"}, {"min": "x", "cursor": "a.1."}])
def test_a_wrong_cursor_or_filter_is_refused(viewer: ViewerThread, query: dict[str, str]) -> None:
    answer = viewer.client.get("/events", params=query)
    assert (answer.status_code, answer.json().keys()) == (400, {"error"})


def test_many_pages_that_come_and_go_leave_nothing(viewer: ViewerThread, store: SqliteStore) -> None:
    for number in range(1, 6):
        with contextlib.ExitStack() as stack:
            pages = [stack.enter_context(Events(viewer, cursor=cursor_of(viewer))) for _ in range(5)]
            write(store, span(number, 0, number, number + 1))
            for page in pages:
                until(lambda page=page: set(page.states()), {f"span 0 of {number}"})
    until(lambda: [one.name for one in threading.enumerate() if one.name == "nodespan-viewer"], [])


def test_received_spans_reach_open_pages(viewer: ViewerThread) -> None:
    with Events(viewer, cursor=cursor_of(viewer)) as events:
        viewer.client.post(
            "/v1/traces", content=encoded(span(9, 0, 1, 2)).data, headers={"content-type": "application/x-protobuf"}
        ).raise_for_status()
        until(events.states, {"span 0 of 9": "ended"})


def test_the_server_ends_at_once_while_pages_are_open() -> None:
    viewer = ViewerProcess("--port", "0")
    with viewer, contextlib.ExitStack() as stack:
        pages = [stack.enter_context(Events(viewer, cursor=cursor_of(viewer))) for _ in range(3)]
        started = time.monotonic()
        viewer.process.send_signal(signal.SIGINT)
        viewer.process.wait(PATIENCE_S)
        assert time.monotonic() - started < 5
        for page in pages:
            page.join(PATIENCE_S)
    assert viewer.err == ""
