"""The end of a process in every phase of a program, in every way but a kill: what has ended is stored."""

from __future__ import annotations

import pytest

from nodespan.store import open_store

PROGRAM = """
import asyncio, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict
import nodespan
from langgraph.graph import START, StateGraph

phase, way = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts programs in the background with it ignored
nodespan.configure()
nodespan.instrument(llama_cpp=False)

class State(TypedDict, total=False):
    x: int

def graph(node):
    return StateGraph(State).add_node("n", node).add_edge(START, "n").compile()

def run():
    graph(lambda state: {"x": 1}).invoke({"x": 0})

def leave():
    if way == "sys.exit": sys.exit(3)
    if way == "error": raise RuntimeError("of the program")
    if way == "handler": signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); os.kill(os.getpid(), signal.SIGTERM)
    if way == "interrupt": os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)  # a signal ends it earlier

async def anode(state):
    leave()

def late():
    time.sleep(0.3)  # the main thread has ended by then
    run()

match phase:
    case "after a run": run(); leave()
    case "in a node": graph(lambda state: leave()).invoke({"x": 0})
    case "in an async node": asyncio.run(graph(anode).ainvoke({"x": 0}))
    case "between two events":
        for _ in graph(lambda state: {"x": 1}).stream({"x": 0}): leave()
    case "beside a thread": threading.Thread(target=late).start(); leave()
    case "beside an executor": ThreadPoolExecutor(1).submit(late); leave()
    case "beside a generation":
        from nodespan import GenerationRequest, ModelProfile, ModelProfileType, PipelineFactory, Runner
        from nodespan.testing import EchoPipeline
        profile = ModelProfile(name="echo", options={"delay_s": 0.05})
        runner = Runner(PipelineFactory({ModelProfileType.Primary: profile}, create=EchoPipeline))
        stream = runner.stream_pipeline(GenerationRequest(prompt="a b c " * 100))
        next(stream)
        leave()
"""
PHASES = {
    "after a run": 2,
    "in a node": 2,
    "in an async node": 2,
    "between two events": 2,
    "beside a thread": 2,
    "beside an executor": 2,
    "beside a generation": 1,
}
"""With the least number of spans."""
WAYS = {"sys.exit": 3, "error": 1, "handler": 3, "interrupt": -2}
"""With the exit code."""
QUICK = {("in an async node", "sys.exit")}
CASES = [
    pytest.param(phase, way, marks=() if (phase, way) in QUICK else pytest.mark.extended)
    for phase in PHASES
    for way in WAYS
]


@pytest.mark.parametrize(("phase", "way"), CASES)
def test_a_process_that_ends_stores_its_spans_and_has_its_own_exit_code(phase, way, run_python):
    done = run_python(PROGRAM, phase, way)
    assert done.returncode == WAYS[way], done.stderr
    assert "nodespan failed" not in done.stderr
    assert "Exception ignored" not in done.stderr
    store = open_store()
    assert store.stats().spans >= PHASES[phase]
    assert store.database.read(lambda connection: connection.execute("SELECT count(*) FROM running").fetchone()) == (0,)
    store.close()
