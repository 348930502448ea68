"""Calls of the openai package under several instrumentations: ``python openai_peer_program.py ours v2``.

Writes results and spans as JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
from typing import Any

import openai
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import nodespan
from nodespan.testing import FakeServer

INSTRUMENTORS = {
    "v2": ("opentelemetry.instrumentation.openai_v2", "OpenAIInstrumentor"),
    "openllmetry": ("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
    "openinference": ("openinference.instrumentation.openai", "OpenAIInstrumentor"),
    "official": ("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
}
QUESTION: Any = [{"role": "user", "content": "what is the sea"}]
STREAMED: Any = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "extra_body": {"timings_per_token": True},
}

exporter = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
reader = InMemoryMetricReader()
meters = MeterProvider([reader], shutdown_on_exit=False)


def text(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def stream(url):
    with openai.OpenAI(base_url=url, api_key="k", max_retries=0) as client:
        return text(client.chat.completions.create(model="m", messages=QUESTION, **STREAMED))


def left(url):
    with (
        openai.OpenAI(base_url=url, api_key="k", max_retries=0) as client,
        client.chat.completions.create(model="m", messages=QUESTION, **STREAMED) as chunks,
    ):
        return text([next(chunks), next(chunks)])


async def _astream(url):
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
        chunks = await client.chat.completions.create(model="m", messages=QUESTION, **STREAMED)
        return text([chunk async for chunk in chunks])


def fails(url):
    with openai.OpenAI(base_url=f"{url}/nothing-here", api_key="k", max_retries=0) as client:
        try:
            client.chat.completions.create(model="m", messages=QUESTION)
        except openai.APIStatusError as error:
            return error.status_code


WAYS = {"stream": stream, "left": left, "astream": lambda url: asyncio.run(_astream(url)), "fails": fails}


def spans():
    """``[scope, name, attributes of nodespan]`` by start."""
    finished = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)
    exporter.clear()
    return [
        [
            span.instrumentation_scope.name if span.instrumentation_scope else None,
            span.name,
            sorted(name for name in span.attributes or {} if name.startswith("nodespan.")),
        ]
        for span in finished
    ]


def main(*names):
    logging.basicConfig(level=logging.WARNING)
    trace.set_tracer_provider(provider)
    for name in names:
        if name == "ours":
            nodespan.instrument(tracer_provider=provider, meter_provider=meters)
        else:
            module, instrumentor = INSTRUMENTORS[name]
            getattr(importlib.import_module(module), instrumentor)().instrument(tracer_provider=provider)
    results = {}
    with FakeServer("llama-server") as server:
        for way, run in WAYS.items():
            result = run(server.url)
            results[way] = {"result": result, "spans": spans(), "sent": len(server.received)}
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
