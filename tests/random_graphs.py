"""Runs random LangGraph graphs and prints their declarations and executions: ``python random_graphs.py SEED COUNT``.

One line of JSON for each graph: its name, its declared nodes and edges, and how often each node was executed, counted
by the nodes themselves.
"""

from __future__ import annotations

import contextlib
import json
import operator
import random
import sys
from collections import Counter
from typing import Annotated, Any, TypedDict

from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

import nodespan

STEPS_MAX = 30
SENDING_UNTIL = 40  # executions; sends in a loop multiply


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class RandomGraph:
    """A graph of plain edges, branches, sends and undeclared jumps, determined by its seed.

    Attributes:
        edges: Declared edges as pairs; a branch has one for each of its ends.
        executed: How often each node was executed.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.name = f"graph-{seed}"
        self.nodes = [f"n{i}" for i in range(self.chance.randint(1, 7))]
        self.edges: set[tuple[str, str]] = set()
        self.executed: Counter[str] = Counter()

    def compile(self) -> Any:
        graph = StateGraph(State)
        for node in self.nodes:
            jumps = self.chance.random() < 0.2
            graph.add_node(node, self.body(node, jumps=jumps))
        for node in [START, *self.nodes]:
            self.leave(graph, node)
        return graph.compile(name=self.name)

    def leave(self, graph: Any, node: str) -> None:
        """Declares what follows a node: an edge, two, a branch, or nothing."""
        targets = [*self.nodes, END] if node != START else self.nodes
        kind = self.chance.choice(["edge", "edges", "branch", "sends", "none"]) if node != START else "edge"
        if kind in ("edge", "edges"):
            for target in self.chance.sample(targets, min(len(targets), 2 if kind == "edges" else 1)):
                graph.add_edge(node, target)
                self.edges.add((node, target))
        elif kind != "none":
            ends = self.chance.sample(targets, min(len(targets), 3))
            self.edges |= {(node, end) for end in ends}
            graph.add_conditional_edges(node, self.route(ends, sends=kind == "sends"), ends)

    def route(self, ends: list[str], *, sends: bool) -> Any:
        nodes = [end for end in ends if end != END]

        def choose(state: State) -> Any:
            if sends and nodes:
                if self.executed.total() > SENDING_UNTIL:
                    return []
                return [Send(self.chance.choice(nodes), {"log": []}) for _ in range(self.chance.randint(1, 3))]
            return self.chance.choice(ends)

        return choose

    def body(self, node: str, *, jumps: bool) -> Any:
        def run(state: State) -> Any:
            self.executed[node] += 1
            update = {"log": [node]}
            return Command(update=update, goto=self.chance.choice(self.nodes)) if jumps else update

        return run


def main(seed: int, count: int) -> None:
    with nodespan.configure(service_name="random"):
        nodespan.instrument()
        for i in range(count):
            graph = RandomGraph(seed + i)
            with contextlib.suppress(GraphRecursionError):
                graph.compile().invoke({}, {"recursion_limit": STEPS_MAX})
            declared = {
                "name": graph.name,
                "nodes": graph.nodes,
                "edges": sorted(graph.edges),
                "executed": graph.executed,
            }
            sys.stdout.write(json.dumps(declared) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
