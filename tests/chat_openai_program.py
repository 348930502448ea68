"""Calls of LangChain's ChatOpenAI: ``chat_openai_program.py ours`` prints results, requests and spans as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_openai import ChatOpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

import nodespan
from nodespan.testing import FakeServer, span_tree

FACTS = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "server.address", "nodespan.status")
TIMES = ("nodespan.decode_s", "nodespan.prompt_eval_s", "nodespan.tokens_per_s")


def text(pieces: Any) -> str:
    return "".join(piece.content for piece in pieces)


async def _astream(model: ChatOpenAI) -> str:
    return text([piece async for piece in model.astream("what is the sea")])


def _left(model: ChatOpenAI) -> str:
    pieces = model.stream("what is the sea")
    first = next(piece.content for piece in pieces if piece.content)
    pieces.close()
    return first


class Answer(BaseModel):
    """What the sea is."""

    sea: str


def _structured(model: ChatOpenAI) -> Any:
    """The package parses the answer, through a raw response."""
    try:
        return str(model.with_structured_output(Answer, strict=True).invoke("what is the sea"))
    except ValueError as error:  # the server answers in words
        return type(error).__name__


def _with_headers(model: ChatOpenAI) -> str:
    """A raw response, whose stream is read later."""
    pieces = list(model.model_copy(update={"include_response_headers": True}).stream("what is the sea"))
    assert any("headers" in piece.response_metadata for piece in pieces)
    return text(pieces)


WAYS = {
    "invoke": lambda model: model.invoke("what is the sea").content,
    "stream": lambda model: text(model.stream("what is the sea")),
    "astream": lambda model: asyncio.run(_astream(model)),
    "left": _left,
    "structured": _structured,
    "with headers": _with_headers,
}


def main(*names: str) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    if "ours" in names:
        nodespan.instrument(tracer_provider=provider)
    found = {}
    with FakeServer("llama-server", delay_s=0.005) as server:
        options: Any = {"extra_body": {"timings_per_token": True}, "stream_usage": True}
        model = ChatOpenAI(base_url=server.url, api_key="k", model="m", max_retries=0, **options)
        for way, run in WAYS.items():
            result = run(model)
            times = [
                name for span in exporter.get_finished_spans() for name in TIMES if name in (span.attributes or {})
            ]
            found[way] = {
                "result": result,
                "spans": span_tree(exporter, *FACTS),
                "times": times,
                "body": server.received[-1].body,
                "traceparent": "traceparent" in server.received[-1].headers,
            }
            exporter.clear()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
