"""A program under several instrumentations: ``python peer_program.py ours official``. Writes its spans as JSON."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys

from langchain.agents import create_agent
from langchain_core.messages import ToolCall
from langchain_core.tools import tool
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import nodespan
from talker import Talker

INSTRUMENTORS = {
    "openllmetry": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "openinference": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
    "official": ("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
}
QUESTION = {"messages": [("human", "hi")]}

exporter = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))


@tool
def weather(place: str) -> str:
    """Returns the weather."""
    return f"rain in {place}"


def agent():
    call = ToolCall(name="weather", args={"place": "Graz"}, id="call_1", type="tool_call")
    return create_agent(Talker(tool_calls=[[call], []]), [weather], name="Agent")


async def _astream():
    return [step async for step in agent().astream(QUESTION)]


WAYS = {
    "invoke": lambda: agent().invoke(QUESTION)["messages"][-1].text,
    "ainvoke": lambda: asyncio.run(agent().ainvoke(QUESTION))["messages"][-1].text,
    "stream": lambda: [*agent().stream(QUESTION)][-1]["model"]["messages"][-1].text,
    "astream": lambda: asyncio.run(_astream())[-1]["model"]["messages"][-1].text,
    "model alone": lambda: "".join(piece.text for piece in Talker().stream("hi")),
}


def spans():
    """``[scope, name, scope of the parent, name of the parent]`` by start."""
    finished = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    by_id = {span.context.span_id: span for span in finished}
    exporter.clear()
    described = []
    for span in finished:
        parent = by_id.get(span.parent.span_id) if span.parent is not None else None
        above = [parent.instrumentation_scope.name, parent.name] if parent is not None else [None, None]
        described.append([span.instrumentation_scope.name, span.name, *above])
    return described


def main(*names):
    logging.basicConfig(level=logging.WARNING)
    for name in names:
        if name == "ours":
            nodespan.instrument(tracer_provider=provider)
        else:
            module, instrumentor = INSTRUMENTORS[name]
            getattr(importlib.import_module(module), instrumentor)().instrument(tracer_provider=provider)
    sys.stdout.write(json.dumps({way: {"result": run(), "spans": spans()} for way, run in WAYS.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
