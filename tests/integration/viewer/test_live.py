"""Changes while programs run, as server-sent events that resume after the last one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batches import encoded, span, trace_id, write
from nodespan.store import SqliteStore
from running import until
from viewer_pages import Drawn, Events, cursor_of
from viewer_process import ViewerProcess, ViewerThread

PROGRAM = Path(__file__).with_name("live_program.py")
PATIENCE_S = 60


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


def test_two_programs_are_listed_from_their_start_to_their_end(viewer: ViewerThread) -> None:
    with Events(viewer, cursor=cursor_of(viewer)) as events, program("one", 1) as one, program("two", 1) as two:
        until(events.states, {"run one": "ended", "run two": "ended"})
        seen = {(found["name"], found["state"]) for _, data in events.found for found in data["traces"]}
        assert seen >= {("run one", "running"), ("run two", "running")}
        for _, trace in (one, two):
            document = viewer.client.get(f"/trace/{trace}.json").json()
            assert document["spans"]["n"] == 5
            assert set(document["spans"]["state"]) == {0}


def test_a_trace_is_drawn_node_by_node_while_it_runs(viewer: ViewerThread) -> None:
    with program("one", 2) as (_, trace):
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
    with program("one", 0.4, "hang") as (started, trace):
        until(lambda: viewer.client.get(f"/trace/{trace}.json").status_code, 200)
        drawn = Drawn(viewer, trace)
        with drawn.events(viewer) as events, Events(viewer, cursor=cursor_of(viewer)) as listed:
            ended = {f"node {i}": 0 for i in range(4)}
            until(lambda: drawn.after(events), {"run one": 1, **ended})
            os.kill(started.pid, signal.SIGKILL)
            until(lambda: drawn.after(events), {"run one": 3, **ended})
            until(listed.states, {"run one": "lost"})
    assert viewer.client.get(f"/trace/{trace}.json").json()["trace"]["state"] == "lost"


def test_a_page_that_reconnects_receives_missed_changes(viewer: ViewerThread, store: SqliteStore) -> None:
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


def test_a_filtered_list_receives_only_matching_runs(viewer: ViewerThread, store: SqliteStore) -> None:
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


def test_closed_pages_leave_no_thread(viewer: ViewerThread, store: SqliteStore) -> None:
    for number in range(1, 4):
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
