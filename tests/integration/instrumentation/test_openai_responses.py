"""The other ways to read an answer of the openai package: raw and streamed responses, parsed answers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

import nodespan
from nodespan.testing import FakeServer

pytestmark = pytest.mark.usefixtures("all_traced")

CALL: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "what is the sea"}]}
STREAMED: dict[str, Any] = {**CALL, "stream": True, "stream_options": {"include_usage": True}}
TEXT = "The sea is wide."


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer("openai", has_usage=True) as server:
        yield server


@pytest.fixture
def completions(server: FakeServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        yield client.chat.completions


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def raw(completions: Any) -> str:
    return completions.with_raw_response.create(**CALL).parse().choices[0].message.content


def raw_stream(completions: Any) -> str:
    response = completions.with_raw_response.create(**STREAMED)
    assert response.headers["content-type"].startswith("text/event-stream")
    return text_of(response.parse())


def streamed_response(completions: Any) -> str:
    with completions.with_streaming_response.create(**CALL) as response:
        assert not response.http_response.is_stream_consumed
        return response.parse().choices[0].message.content


def streamed_response_of_a_stream(completions: Any) -> str:
    with completions.with_streaming_response.create(**STREAMED) as response:
        return text_of(response.parse())


def parsed(completions: Any) -> str:
    return completions.parse(**CALL).choices[0].message.content


def raw_parsed(completions: Any) -> str:
    return completions.with_raw_response.parse(**CALL).parse().choices[0].message.content


WAYS = [raw, raw_stream, streamed_response, streamed_response_of_a_stream, parsed, raw_parsed]


async def atext_of(stream: Any) -> str:
    return text_of([chunk async for chunk in stream])


async def araw(completions: Any) -> str:
    return (await completions.with_raw_response.create(**CALL)).parse().choices[0].message.content


async def araw_stream(completions: Any) -> str:
    return await atext_of((await completions.with_raw_response.create(**STREAMED)).parse())


async def astreamed_response(completions: Any) -> str:
    async with completions.with_streaming_response.create(**CALL) as response:
        assert not response.http_response.is_stream_consumed
        return (await response.parse()).choices[0].message.content


async def astreamed_response_of_a_stream(completions: Any) -> str:
    async with completions.with_streaming_response.create(**STREAMED) as response:
        return await atext_of(await response.parse())


async def aparsed(completions: Any) -> str:
    return (await completions.parse(**CALL)).choices[0].message.content


AWAYS = [araw, araw_stream, astreamed_response, astreamed_response_of_a_stream, aparsed]


def in_loop(server: FakeServer, way: Callable[[Any], Any]) -> Any:
    async def call() -> Any:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
            return await way(client.chat.completions)

    return asyncio.run(call())


def the_span(exporter: InMemorySpanExporter) -> Any:
    gc.collect()
    [span] = [span for span in exporter.get_finished_spans() if span.name == "chat m"]
    return span


def is_counted(exporter: InMemorySpanExporter) -> bool:
    attributes = the_span(exporter).attributes
    assert attributes["nodespan.status"] == "ok"
    return attributes["gen_ai.usage.output_tokens"] == 4 and attributes["gen_ai.usage.input_tokens"] > 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_answer_read_by_other_methods_is_counted(
    way: Callable[[Any], str], completions: Any, exporter: InMemorySpanExporter
) -> None:
    assert way(completions) == TEXT
    assert is_counted(exporter)


@pytest.mark.parametrize("way", AWAYS, ids=lambda way: way.__name__)
def test_an_answer_read_by_other_async_methods_is_counted(
    way: Callable[[Any], Any], server: FakeServer, exporter: InMemorySpanExporter
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert in_loop(server, way) == TEXT
    assert is_counted(exporter)


class Answer(BaseModel):
    sea: str


def read_as_json(completions: Any) -> Any:
    with completions.with_streaming_response.create(**CALL) as response:
        return response.json()


def raw_that_cannot_be_parsed(completions: Any) -> Any:
    return completions.with_raw_response.parse(**CALL, response_format=Answer).parse()


def streamed_that_cannot_be_parsed(completions: Any) -> Any:
    with completions.with_streaming_response.parse(**CALL, response_format=Answer) as response:
        return response.parse()


@pytest.mark.parametrize(
    ("way", "status"),
    [
        (read_as_json, "ok"),
        (raw_that_cannot_be_parsed, "ok"),  # the request has been answered; the program parses later
        (streamed_that_cannot_be_parsed, "error"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_answer_that_is_not_parsed_is_counted(
    way: Callable[[Any], Any], status: str, completions: Any, exporter: InMemorySpanExporter
) -> None:
    with contextlib.suppress(ValueError):
        way(completions)
    attributes = the_span(exporter).attributes
    assert attributes["nodespan.status"] == status
    assert attributes["gen_ai.usage.output_tokens"] == 4


class ShortServer(FakeServer):
    """Its answers are cut short."""

    def whole(self, body: Any) -> Any:
        answer = json.loads(json.dumps(super().whole(body)))
        answer["choices"][0]["finish_reason"] = "length"
        return answer


def test_an_answer_that_is_too_short_to_be_parsed_is_counted(exporter: InMemorySpanExporter) -> None:
    with (
        ShortServer("openai") as server,
        openai.OpenAI(base_url=server.url, api_key="k") as client,
        pytest.raises(openai.LengthFinishReasonError),
    ):
        client.chat.completions.parse(**CALL, response_format=Answer)
    attributes = the_span(exporter).attributes
    assert attributes["nodespan.status"] == "error"
    assert attributes["gen_ai.usage.output_tokens"] == 4


def test_the_programs_own_parser_is_called_once(completions: Any) -> None:
    calls = []

    class Watched(BaseModel):
        @classmethod
        def model_validate_json(cls, data: Any, **options: Any) -> Any:
            calls.append(data)
            return cls()

    completions.with_raw_response.parse(**CALL, response_format=Watched).parse()
    assert len(calls) == 1


def test_the_program_can_read_the_bytes_of_a_streamed_response(
    completions: Any, server: FakeServer, exporter: InMemorySpanExporter
) -> None:
    def read() -> list[bytes]:
        with completions.with_streaming_response.create(**CALL) as response:
            return list(response.http_response.iter_raw())

    async def aread(completions: Any) -> list[bytes]:
        async with completions.with_streaming_response.create(**CALL) as response:
            return [part async for part in response.http_response.aiter_raw()]

    assert TEXT.encode() in b"".join(read())
    assert TEXT.encode() in b"".join(in_loop(server, aread))
    assert [span.attributes["nodespan.status"] for span in exporter.get_finished_spans()] == ["ok", "ok"]


@pytest.mark.parametrize("of_stream", [False, True])
def test_a_response_keeps_its_type_and_attributes(of_stream: bool, completions: Any) -> None:
    given = STREAMED if of_stream else CALL
    response = completions.with_raw_response.create(**given)
    nodespan.uninstrument()
    original = completions.with_raw_response.create(**given)
    assert isinstance(response, type(original))
    assert isinstance(response.parse(), type(original.parse()))
    assert response.status_code == original.status_code
    assert set(dir(original)) <= set(dir(response))
    for each in (response, original):
        each.http_response.close()


def test_an_abandoned_stream_of_a_raw_response_is_cancelled(completions: Any, exporter: InMemorySpanExporter) -> None:
    with completions.with_raw_response.create(**STREAMED).parse() as stream:
        next(iter(stream))
    assert the_span(exporter).attributes["nodespan.status"] == "cancelled"


def test_headers_of_any_mapping_are_sent(completions: Any, server: FakeServer) -> None:
    completions.create(**CALL, extra_headers=types.MappingProxyType({"x-tenant": "acme"}))
    assert server.received[-1].headers["x-tenant"] == "acme"
    assert "traceparent" in server.received[-1].headers


def test_suppressed_responses_are_not_recorded(completions: Any, exporter: InMemorySpanExporter) -> None:
    with suppress_instrumentation():
        assert [way(completions) for way in WAYS] == [TEXT] * len(WAYS)
    gc.collect()
    assert exporter.get_finished_spans() == ()
