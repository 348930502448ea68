"""A graph with a branch, a loop, a join and a subgraph, run once: ``python graph_program.py SECONDS``."""

from __future__ import annotations

import operator
import sys
import time
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph

import nodespan
from nodespan.instrumentation import instrument

ROUNDS = 3
PACE_S = float(sys.argv[1])


class State(TypedDict, total=False):
    notes: Annotated[list[str], operator.add]
    rounds: int


def plan(state: State) -> State:
    time.sleep(PACE_S)
    return {"notes": ["plan"], "rounds": state.get("rounds", 0) + 1}


def left(state: State) -> State:
    return {"notes": ["left"]}


def right(state: State) -> State:
    return {"notes": ["right"]}


def review(state: State) -> State:
    return {"notes": ["review"]}


def again(state: State) -> str:
    return "plan" if state["rounds"] < ROUNDS else "detail"


def make() -> object:
    inner = StateGraph(State)
    inner.add_node("inside", lambda state: {"notes": ["inside"]})
    inner.add_edge(START, "inside")
    inner.add_edge("inside", END)
    outer = StateGraph(State)
    for node in (plan, left, right, review):
        outer.add_node(node.__name__, node)
    outer.add_node("detail", inner.compile())
    outer.add_edge(START, "plan")
    outer.add_edge("plan", "left")
    outer.add_edge("plan", "right")
    outer.add_edge(["left", "right"], "review")
    outer.add_conditional_edges("review", again, ["plan", "detail"])
    outer.add_edge("detail", END)
    return outer.compile(name="trip")


def main() -> None:
    with nodespan.configure("graphs") as telemetry:
        instrument()
        make().invoke({}, {"configurable": {"thread_id": "talk"}})
        assert telemetry.force_flush()


if __name__ == "__main__":
    main()
