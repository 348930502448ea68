"""Small graphs, each with one trait. Tests pass the bodies."""

from __future__ import annotations

import operator
import re
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    seen: Annotated[list, operator.add]
    n: int


def chain(*bodies, name="Main", checkpointer=None, **compile_options):
    """Nodes one after the other. A body is a function or a ``(name, runnable, options)``."""
    builder = StateGraph(State)
    before = START
    for body in bodies:
        node, runnable, options = body if isinstance(body, tuple) else (body.__name__, body, {})
        builder.add_node(node, runnable, **options)
        builder.add_edge(before, node)
        before = node
    return builder.compile(name=name, checkpointer=checkpointer, **compile_options)


def fan(*bodies, name="Fan"):
    """Nodes beside each other."""
    builder = StateGraph(State)
    for body in bodies:
        builder.add_node(body.__name__, body)
        builder.add_edge(START, body.__name__)
    return builder.compile(name=name)


def thread(thread_id="t1", **metadata):
    return {"configurable": {"thread_id": thread_id}, **({"metadata": metadata} if metadata else {})}


def without_ids(value):
    """The result as text, without ids and times, which differ between runs."""
    text = repr(value)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", text)
    return re.sub(r"('timestamp': )\d+", r"\1T", text)
