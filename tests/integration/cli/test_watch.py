"""`traces --running`, `traces --follow` and `trace --follow` beside a program that runs a graph."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace

from nodespan.delivery import running_spans
from nodespan.store import SqliteStore, StoreReader, TraceFilter, store_path
from nodespan.telemetry import configure
from running import until

PATIENCE_S = 60
COMMAND = [sys.executable, "-c", "from nodespan.cli import main; main()"]
PROGRAM = """
import sys
from typing import TypedDict
import nodespan
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

nodespan.configure("app")
nodespan.instrument(llama_cpp=False)
class State(TypedDict):
    n: int
tries = []
def slow(state):
    sys.stdin.readline()
    return {"n": 1}
def fails_once(state):
    tries.append(1)
    if len(tries) == 1:
        raise ConnectionError("no")
    return {"n": 2}
graph = StateGraph(State)
graph.add_node("slow", slow)
graph.add_node("flaky", fails_once, retry_policy=RetryPolicy(initial_interval=3.0, jitter=False))
graph.add_edge(START, "slow")
graph.add_edge("slow", "flaky")
print(graph.compile(name="g").invoke({"n": 0}), flush=True)
"""


@contextmanager
def program() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def default_sigint() -> None:
    """A shell starts programs in the background with SIGINT ignored, and theirs inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Watcher:
    """A command that prints until it is interrupted; ``lines`` grows meanwhile."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=default_sigint,
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += iter(self.process.stdout.readline, "")

    def until(self, *words: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not any(all(word in line for word in words) for line in list(self.lines)):
            assert time.monotonic() < deadline, f"no line with {words}; lines: {self.lines}"
            time.sleep(0.02)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def running(reader: StoreReader, name: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = reader.find(TraceFilter(is_running=True))
        for one in found:
            if any(span["name"] == name for span in reader.get(one["trace_id"])["spans"]):
                return one["trace_id"]
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


@pytest.fixture
def watch():
    """Starts watchers; those of a failed test are ended."""
    started: list[Watcher] = []

    def start(*arguments: str) -> Watcher:
        started.append(Watcher(*arguments))
        return started[-1]

    yield start
    for watcher in started:
        watcher.process.kill()
        watcher.wait()


@pytest.fixture
def reader():
    with StoreReader(SqliteStore(store_path())) as reader:
        yield reader


def test_a_run_is_shown_from_its_first_node_through_a_retry_to_its_end(reader, cli, watch):
    traces, tree = watch("traces", "--follow"), watch("trace", "--follow")
    with program() as process:
        trace_id = running(reader, "invoke_node slow")
        assert cli("traces", "--running").code == 0
        assert trace_id[:8] in cli.out
        assert "running" in cli.out
        assert cli("trace", trace_id).code == 0
        assert "invoke_node slow" in cli.out
        tree.until("running", "invoke_node slow")
        traces.until(trace_id[:8], "running", "invoke_workflow g")
        process.stdin.write("go on\n")
        process.stdin.flush()
        tree.until("ended after", "invoke_node slow")
        tree.until("retrying ConnectionError", "invoke_node flaky")
        assert process.stdout.readline() == "{'n': 2}\n"
        process.stdin.close()
        process.wait(PATIENCE_S)
        tree.until("ended after", "invoke_workflow g")
        assert tree.wait() == 0  # by itself, with the run
        traces.until(trace_id[:8], "ended", "invoke_workflow g")
    assert traces.stop() == 130
    assert cli("traces", "--running", "--json").json == []


@pytest.mark.extended
def test_following_ends_with_a_killed_run_and_shows_its_phase(reader, cli, watch):
    with program() as process:
        trace_id = running(reader, "invoke_node slow")
        tree = watch("trace", trace_id[:8], "--follow", "--json")
        tree.until('"running"', '"invoke_node slow"')
        process.kill()
        process.wait()
        assert tree.wait() == 0
        assert [json.loads(line)["state"] for line in tree.lines][-2:] == ["lost", "lost"]
    assert cli("trace", trace_id).code == 0
    assert "lost at " in cli.out
    assert cli("traces", "--running").code == 0
    assert "lost" in cli.out


@pytest.mark.extended
def test_the_demo_is_shown_with_nodes_and_phases_from_its_first_second(smollm2, watch):
    tree = watch("trace", "--follow")
    with subprocess.Popen([*COMMAND, "demo", "--model", str(smollm2)], stdout=subprocess.PIPE, text=True) as demo:
        tree.until("running", "invoke_node answer")
        demo.communicate(timeout=PATIENCE_S)
        assert demo.returncode == 0
    assert tree.wait() == 0
    lines = [line.split("  ", 1)[1].strip() for line in tree.lines]
    assert lines.index("running  invoke_workflow demo") < lines.index("running  invoke_node answer")
    for node in ("answer", "example", "objection", "summary"):
        ended = next(i for i, line in enumerate(lines) if re.fullmatch(rf"ended after .*  invoke_node {node}", line))
        assert f"running  invoke_node {node}" in lines[:ended]
    chats = [line for line in lines if line.startswith("running  ") and "  chat " in line]
    phases = {line.split()[1] for line in chats}
    assert "queued" in phases  # of the two that run at once
    assert phases & {"loading", "prefilling", "decoding"}
    assert lines[-1].startswith("ended after ")


def test_spans_that_are_not_tracked_are_reported(cli, monkeypatch, reader):
    monkeypatch.setattr(running_spans, "MAX_TRACKED", 1)
    with configure():
        spans = [trace.get_tracer("test").start_span(f"span {number}") for number in range(3)]
        until(lambda: reader.status()["untracked"], 2)
        assert cli("traces", "--running").code == 0
        assert "2 spans of running processes were not shown while open" in cli.err
        for span in spans:
            span.end()


def test_a_store_in_memory_cannot_show_runs_of_other_processes(cli, monkeypatch):
    monkeypatch.setenv("NODESPAN_STORE", "memory")
    assert cli("traces", "--running").code == 1
    assert "NODESPAN_STORE=memory" in cli.err
    monkeypatch.setenv("NODESPAN_STORE", str(os.devnull))


def test_a_trace_without_an_id_is_an_error(cli):
    assert cli("trace").code == 1
    assert "--follow" in cli.err
