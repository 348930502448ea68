"""A trace's sums in a list: tokens and decode time of model calls, interrupted and resumed runs."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from batches import encoded, span, trace_id, write
from nodespan import semconv
from nodespan.store import SqliteStore, StoreLimits, StoreReader, open_store

FIELDS = ("tokens_in", "tokens_out", "decode_s", "is_interrupted", "resumes")


def call(number: int, tokens_in: int, tokens_out: int, operation: str = "chat", decode_s: float | None = None) -> Span:
    made = span(7, number, 1, 2)
    made.attributes.add(key=semconv.OPERATION_NAME).value.string_value = operation
    made.attributes.add(key=semconv.USAGE_INPUT_TOKENS).value.int_value = tokens_in
    made.attributes.add(key=semconv.USAGE_OUTPUT_TOKENS).value.int_value = tokens_out
    if decode_s is not None:
        made.attributes.add(key=semconv.MIRROR_KEYS["decode_s"]).value.double_value = decode_s
    return made


def sums(store: SqliteStore) -> tuple[Any, ...]:
    with StoreReader(store) as reader:
        (found,) = (one for one in reader.find() if one["trace_id"] == trace_id(7))
    return tuple(found[field] for field in FIELDS)


def test_a_run_without_model_calls_has_no_tokens() -> None:
    store = open_store()
    write(store, span(7, 0, 1, 2))
    assert sums(store) == (None, None, None, False, None)


def test_tokens_of_model_calls_are_summed_over_batches_and_those_of_agents_are_not() -> None:
    store = open_store()
    write(store, call(1, 10, 5, decode_s=0.25), call(2, 1, 2, "text_completion", decode_s=0.5))
    write(store, call(3, 100, 0, "embeddings"), call(4, 111, 7, "invoke_agent"), span(7, 0, 0, 9))
    assert sums(store) == (111, 7, 0.75, False, None)


def test_invalid_measurements_do_not_break_the_index() -> None:
    store = open_store()
    strange = call(1, -5, 2**63 - 1, decode_s=float("nan"))
    write(store, strange, call(2, 3, 4, decode_s=float("inf")), call(3, 1, 1, decode_s=-1.0))
    tokens_in, tokens_out, decode_s, *_ = sums(store)
    assert (tokens_in, decode_s) == (4, None)
    assert tokens_out == 2**40 + 5


def test_an_interrupted_run_and_the_run_that_resumes_it() -> None:
    store = open_store()
    first = span(7, 0, 1, 2)
    first.attributes.add(key=semconv.LANGGRAPH_INTERRUPTED).value.bool_value = True
    second = span(8, 0, 3, 4)
    link = second.links.add(trace_id=first.trace_id, span_id=first.span_id)
    link.attributes.add(key=semconv.LINK_KIND).value.string_value = "resumed_from"
    other = span(9, 0, 5, 6)
    other.links.add(trace_id=first.trace_id, span_id=first.span_id)
    write(store, first, second, other)
    with StoreReader(store) as reader:
        found = {one["trace_id"]: one for one in reader.find()}
    assert [(found[trace_id(i)]["is_interrupted"], found[trace_id(i)]["resumes"]) for i in (7, 8, 9)] == [
        (True, None),
        (False, trace_id(7)),
        (False, None),
    ]
    assert {kind for one in found.values() for kind in one["labels"]} == {"service"}


def test_sums_shrink_with_the_batches_that_are_removed(tmp_path) -> None:
    size = len(encoded(call(1, 10, 5, decode_s=0.5)).data)
    store = SqliteStore(tmp_path / "small.db", StoreLimits(max_bytes=size * 20))
    for number in range(20):
        write(store, call(number, 10, 5, decode_s=0.5))
    assert sums(store) == (200, 100, 10.0, False, None)
    for number in range(20, 30):
        write(store, call(number, 10, 5, decode_s=0.5))
    with StoreReader(store) as reader:
        spans = reader.find()[0]["spans"]
    assert 10 < spans < 20
    assert sums(store) == (10 * spans, 5 * spans, 0.5 * spans, False, None)


@pytest.mark.parametrize("batches", [1, 3])
def test_the_sums_of_a_trace_equal_those_of_its_spans(batches: int) -> None:
    store = open_store()
    made = [call(number, number, 2 * number, decode_s=number / 8) for number in range(1, 31)]
    for i in range(batches):
        write(store, *made[i::batches])
    assert sums(store) == (465, 930, 465 / 8, False, None)
