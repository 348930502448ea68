"""The program that `bench.page` shows: nodes of 0.3 s, one after the other."""

from __future__ import annotations

import sys
import time
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

import nodespan

NODE_S = 0.3


class State(TypedDict):
    """The number of remaining executions."""

    left: int


def step(state: State) -> State:
    time.sleep(NODE_S)
    return {"left": state["left"] - 1}


def main(executions: int) -> None:
    with nodespan.configure(service_name="bench"):
        nodespan.instrument()
        graph = StateGraph(State)
        graph.add_node("plan", step)
        graph.add_node("act", step)
        graph.add_edge(START, "plan")
        graph.add_edge("plan", "act")
        graph.add_conditional_edges("act", lambda state: "plan" if state["left"] > 0 else END, ["plan", END])
        graph.compile(name="watched").invoke({"left": executions}, {"recursion_limit": executions + 10})


if __name__ == "__main__":
    main(int(sys.argv[1]))
