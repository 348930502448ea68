"""The documents behind the pages: lists and filters, columns of a trace, one span, the conversation."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import nodespan
from batches import encoded, span, trace_id, write
from nodespan import semconv
from nodespan.spans import phases
from nodespan.spans.phases import Phase
from nodespan.store import SqliteStore, StoreReader, open_store
from nodespan.viewer import documents
from nodespan.viewer.columns import CANCELLED, INTERRUPTED, NOISE
from running import Work, until
from viewer_pages import Events, cursor_of
from viewer_process import ViewerThread

COLUMNS = {
    "n", "id", "parent", "name", "service", "scope", "kind", "start", "duration", "state", "status", "operation",
    "node", "step", "tokens_in", "tokens_out", "cached", "flags",
}  # fmt: skip


def get(viewer: ViewerThread, path: str, **query: Any) -> Any:
    answer = viewer.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(viewer: ViewerThread, **query: Any) -> list[int]:
    return [int(found["trace_id"], 16) for found in get(viewer, "/runs.json", **query)["traces"]]


def set_attributes(made: Span, **values: object) -> Span:
    for key, value in values.items():
        added = made.attributes.add(key=key.replace("__", ".")).value
        kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}[type(value)]
        setattr(added, kind, value)
    return made


def test_the_list_has_the_newest_runs_first_and_pages(viewer: ViewerThread, store: SqliteStore) -> None:
    for number in range(1, 6):
        write(store, span(number, 0, number, number + 1))
    before_ns = time.time_ns()
    first = get(viewer, "/runs.json", limit=2)
    assert before_ns <= first["now_ns"] <= time.time_ns()
    assert [found["trace_id"] for found in first["traces"]] == [trace_id(5), trace_id(4)]
    assert first["next"] == trace_id(4)
    assert ids(viewer, limit=2, before=first["next"]) == [3, 2]
    last = get(viewer, "/runs.json", limit=2, before=trace_id(2))
    assert ([found["trace_id"] for found in last["traces"]], last["next"]) == ([trace_id(1)], None)
    assert first["status"]["spans"] == 5


def test_every_filter_is_in_the_address(viewer: ViewerThread, store: SqliteStore) -> None:
    write(store, span(1, 0, 10, 11, node="plan", model="small", workflow="trip"), service="shop")
    write(store, span(2, 0, 20, 29, node="act", model="large", workflow="mail", failed=True), service="desk")
    for query, expected in (
        ({"service": "shop"}, [1]),
        ({"workflow": "mail"}, [2]),
        ({"node": "plan"}, [1]),
        ({"model": "large"}, [2]),
        ({"error": "1"}, [2]),
        ({"running": "1"}, []),
        ({"min": "5"}, [2]),
        ({"since": str(15 * 10**9)}, [2]),
        ({"until": "1970-01-01T00:00:15+00:00"}, [1]),
        ({"id": trace_id(1)[:32]}, [1]),
        ({"tag": ["a", "b"]}, []),
        ({"meta": "k=v"}, []),
        ({"graph": "00"}, []),
        ({"user": "u"}, []),
        ({"conversation": "c"}, []),
        ({"unknown": "x", "view": "graph", "service": ""}, [2, 1]),
    ):
        assert ids(viewer, **query) == expected, query


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=1e3", "limit=201", "min=x", "min=-1", "min=inf", "since=x", "until=9999-99"]
)
def test_an_invalid_value_is_rejected_with_what_is_allowed(viewer: ViewerThread, query: str) -> None:
    answer = viewer.client.get(f"/runs.json?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{query.partition('=')[0]} is ")
    assert "Give" in answer.json()["error"]


def test_the_columns_of_a_trace_are_its_spans_by_start(viewer: ViewerThread, store: SqliteStore) -> None:
    root = set_attributes(span(7, 0, 100, 110, workflow="trip"), gen_ai__operation__name="invoke_workflow",
                          gen_ai__conversation__id="c1")  # fmt: skip
    root.links.add(trace_id=b"p" * 16, span_id=b"q" * 8).attributes.add(
        key=semconv.LINK_KIND
    ).value.string_value = "resumed_from"
    node = set_attributes(span(7, 1, 101, 105), langgraph__node="plan", langgraph__step=3)
    node.events.add(name=semconv.ATTEMPT_FAILED)
    chat = set_attributes(
        span(7, 2, 102, 104, failed=True), gen_ai__operation__name="chat", gen_ai__usage__input_tokens=10,
        gen_ai__usage__output_tokens=2**40, gen_ai__usage__cache_read__input_tokens=4, nodespan__status="cancelled",
    )  # fmt: skip
    chat.parent_span_id = node.span_id
    chat.kind = Span.SPAN_KIND_CLIENT
    write(store, chat)
    write(store, root, node)
    document = get(viewer, f"/trace/{trace_id(7)[:31]}7.json")
    spans, strings = document["spans"], document["strings"]
    assert spans.keys() == COLUMNS
    assert {len(column) for name, column in spans.items() if name != "n"} == {spans["n"]} == {3}
    assert strings[0] == ""
    assert [strings[i] for i in spans["name"]] == ["span 0 of 7", "span 1 of 7", "span 2 of 7"]
    assert spans["id"] == [f"{7 * 1000 + i + 1:016x}" for i in range(3)]
    assert spans["parent"] == [-1, 0, 1]
    assert document["t0_ns"] == str(100 * 10**9)
    assert spans["start"] == [0, 1e6, 2e6]
    assert spans["duration"] == [10e6, 4e6, 2e6]
    assert (spans["kind"], spans["state"], spans["status"]) == ([0, 0, 2], [0, 0, 0], [0, 0, 2])
    assert [strings[i] for i in spans["operation"]] == ["invoke_workflow", "", "chat"]
    assert ([strings[i] for i in spans["node"]], spans["step"]) == (["", "plan", ""], [-1, 3, -1])
    assert (spans["tokens_in"], spans["tokens_out"], spans["cached"]) == ([-1, -1, 10], [-1, -1, 2**40], [-1, -1, 4])
    assert spans["flags"] == [8 | 32, 4 | 16, CANCELLED]
    assert document["runs"] == [
        {
            "row": 0,
            "graph": None,
            "conversation": "c1",
            "link": {"trace_id": b"p".hex() * 16, "span_id": b"q".hex() * 8},
        }
    ]
    assert (document["phases"], document["processes"], document["graphs"]) == ({}, {}, {})


def prefixed(number: int, **values: object) -> Span:
    """A model call with ``nodespan.prefix.*``."""
    made = span(7, number, number, number + 1)
    return set_attributes(made, **{f"nodespan__prefix__{key}": value for key, value in values.items()})


def test_shared_prefixes_are_by_row(viewer: ViewerThread, store: SqliteStore) -> None:
    cursor = cursor_of(viewer)
    write(
        store,
        span(7, 0, 0, 9),
        prefixed(1, shared_tokens=80, repeated_tokens=20, previous_node="plan", cost_s=0.25),
        prefixed(2, shared_tokens=0, repeated_tokens=0),
        prefixed(3, shared_tokens="text", repeated_tokens=1),
        prefixed(4, previous_node="plan"),
    )
    expected = {
        "1": {"shared": 80, "repeated": 20, "previous_node": "plan", "cost_s": 0.25},
        "2": {"shared": 0, "repeated": 0, "previous_node": None, "cost_s": None},
    }
    assert get(viewer, f"/trace/{trace_id(7)}.json")["prefixes"] == expected
    with Events(viewer, cursor=cursor, trace=trace_id(7)) as events:
        until(lambda: [data["prefixes"] for _, data in events.found], [expected])


def test_a_span_that_is_stored_twice_has_one_row(viewer: ViewerThread, store: SqliteStore) -> None:
    write(store, span(7, 0, 100, 101))
    write(store, span(7, 0, 100, 101), span(7, 1, 100, 101))
    assert get(viewer, f"/trace/{trace_id(7)}.json")["spans"]["n"] == 2


def test_other_runs_of_the_conversation_are_named(viewer: ViewerThread, store: SqliteStore) -> None:
    for number in range(1, 4):
        write(store, set_attributes(span(number, 0, number, number + 1), gen_ai__conversation__id="talk"))
    others = get(viewer, f"/trace/{trace_id(2)}.json")["conversations"]["talk"]
    assert [found["trace_id"] for found in others] == [trace_id(3), trace_id(1)]


def test_spans_of_instrumented_frameworks_are_noise_unless_nothing_else_is_there(
    viewer: ViewerThread, store: SqliteStore
) -> None:
    ours = encoded(set_attributes(span(7, 0, 1, 9), gen_ai__operation__name="chat")).data
    http = encoded(span(7, 1, 2, 3), span(8, 0, 2, 3))
    request = ExportTraceServiceRequest.FromString(http.data)
    request.resource_spans[0].scope_spans[0].scope.name = "opentelemetry.instrumentation.httpx"
    viewer.client.post(
        "/v1/traces", content=ours + request.SerializeToString(), headers={"content-type": "application/x-protobuf"}
    ).raise_for_status()
    assert [flag & NOISE for flag in get(viewer, f"/trace/{trace_id(7)}.json")["spans"]["flags"]] == [0, NOISE]
    assert get(viewer, f"/trace/{trace_id(8)}.json")["spans"]["flags"] == [0]


def test_an_interrupted_run_is_marked(viewer: ViewerThread, store: SqliteStore) -> None:
    write(store, set_attributes(span(7, 0, 1, 2), langgraph__interrupted=True))
    assert get(viewer, f"/trace/{trace_id(7)}.json")["spans"]["flags"] == [INTERRUPTED]


def test_an_open_span_has_its_phase_and_process(viewer: ViewerThread) -> None:
    with nodespan.configure("app") as telemetry:
        tracer = trace.get_tracer("app")
        with tracer.start_as_current_span("run") as run:
            work = Work(Phase("prefilling", time.time_ns(), done=3, total=10))
            phases.publish(run, work)
            found = until(
                lambda: [one["state"] for one in get(viewer, "/runs.json", running="1")["traces"]], ["running"]
            )
            before_ns = time.time_ns()
            document = get(viewer, f"/trace/{run.get_span_context().trace_id:032x}.json")
            after_ns = time.time_ns()
        assert found
        assert telemetry.force_flush()
    spans = document["spans"]
    assert (spans["n"], spans["state"]) == (1, [1])
    assert document["phases"]["0"]["name"] == "prefilling"
    assert document["processes"]["0"]["pid"] > 0
    now_ns = int(document["t0_ns"]) + document["now_us"] * 1e3
    assert before_ns - 1e3 <= now_ns <= after_ns + 1e3
    assert before_ns - 1e3 <= int(document["t0_ns"]) + spans["duration"][0] * 1e3 <= after_ns + 1e3


def test_the_document_of_a_span_has_all_recorded_data(viewer: ViewerThread, store: SqliteStore) -> None:
    one = set_attributes(span(7, 0, 1, 2), nodespan__status="ok", nodespan__queue_s=0.5, x="y")
    write(store, one, span(7, 1, 1, 2))
    answer = get(viewer, f"/trace/{trace_id(7)}/span/{one.span_id.hex()}.json")
    with StoreReader(store) as reader:
        expected = next(found for found in reader.get(trace_id(7))["spans"] if found["span_id"] == one.span_id.hex())
    assert answer == {**expected, "node_metadata": {"status": "ok", "queue_s": 0.5}, "jaeger_url": None}


def test_a_span_links_to_jaeger_if_a_template_is_set(store: SqliteStore) -> None:
    write(store, span(7, 0, 1, 2))
    template = "http://localhost:16686/trace/{trace_id}?uiFind={span_id}"
    with ViewerThread(store, jaeger_url=template) as viewer:
        address = get(viewer, f"/trace/{trace_id(7)}/span/{7001:016x}.json")["jaeger_url"]
    assert address == f"http://localhost:16686/trace/{trace_id(7)}?uiFind={7001:016x}"


@pytest.mark.parametrize(
    "path", [f"/trace/{'0' * 32}.json", "/trace/nothex.json", f"/trace/{7:032x}/span/zz.json",
             f"/trace/{8:032x}/span/01.json", f"/trace/{8:032x}/messages.json"]
)  # fmt: skip
def test_a_missing_document_is_an_error_with_a_text(viewer: ViewerThread, store: SqliteStore, path: str) -> None:
    write(store, span(7, 0, 1, 2))
    answer = viewer.client.get(path)
    assert (answer.status_code, answer.json().keys()) == (404, {"error"})


def messages(*pairs: tuple[str, str]) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in pairs])


def test_the_conversation_has_each_message_once_in_order(viewer: ViewerThread, store: SqliteStore) -> None:
    call = {"role": "assistant", "parts": [{"type": "tool_call", "id": "1", "name": "look", "arguments": {"q": 1}}]}
    result = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "rain"}]}
    first = set_attributes(
        span(7, 1, 1, 2), gen_ai__input__messages=messages(("user", "hi"), ("user", "hi")),
        gen_ai__system_instructions=json.dumps([{"type": "text", "content": "be short"}]),
        gen_ai__output__messages=json.dumps([call]),
    )  # fmt: skip
    tool = set_attributes(
        span(7, 2, 2, 3), gen_ai__tool__name="look", gen_ai__tool__call__arguments='{"q":1}',
        gen_ai__tool__call__result="rain",
    )  # fmt: skip
    second = set_attributes(
        span(7, 3, 3, 4), gen_ai__system_instructions=json.dumps([{"type": "text", "content": "be short"}]),
        gen_ai__input__messages=json.dumps([*json.loads(messages(("user", "hi"), ("user", "hi"))), call, result]),
        gen_ai__output__messages=messages(("assistant", "it rains")),
    )  # fmt: skip
    write(store, span(7, 0, 0, 5), first, tool, second)
    document = get(viewer, f"/trace/{trace_id(7)}/messages.json")
    assert document["is_captured"] is True
    assert [(item["kind"], item["text"], item["name"], item["row"]) for item in document["items"]] == [
        ("system", "be short", "", 1),
        ("user", "hi", "", 1),
        ("user", "hi", "", 1),
        ("tool_call", '{"q":1}', "look", 1),
        ("tool_result", "rain", "", 2),
        ("assistant", "it rains", "", 3),
    ]
    assert document["items"][1]["time_us"] == 1e6


def test_the_conversation_has_questions_and_answers_once(viewer: ViewerThread, store: SqliteStore) -> None:
    run: dict[str, Any] = {"gen_ai__operation__name": "invoke_workflow", "langgraph__interrupted": True}
    asked = {**run, "langgraph__interrupt_values": '[{"approve":"it"},"sure?"]'}
    outer = set_attributes(span(7, 0, 0, 5), langgraph__resume_value="go on", **asked)
    inner, other = set_attributes(span(7, 1, 1, 4), **asked), set_attributes(span(7, 2, 6, 7), **asked)
    write(store, outer, inner, other, set_attributes(span(7, 3, 8, 9), **run))
    document = get(viewer, f"/trace/{trace_id(7)}/messages.json")
    assert document["is_captured"] is True
    assert [(item["kind"], item["text"], item["row"]) for item in document["items"]] == [
        ("resume", "go on", 0),
        ("interrupt", '{"approve":"it"}', 1),
        ("interrupt", "sure?", 1),
        ("interrupt", '{"approve":"it"}', 2),
        ("interrupt", "sure?", 2),
        ("interrupt", "", 3),
    ]


def test_a_conversation_without_captured_content_is_empty_and_marked(viewer: ViewerThread, store: SqliteStore) -> None:
    write(store, span(7, 0, 0, 5))
    assert get(viewer, f"/trace/{trace_id(7)}/messages.json") == {"items": [], "is_captured": False}


@pytest.mark.parametrize("text", ["", "no json", "7", '{"a": 1}', "[7]", '[{"parts": 7}]', '[{"parts": [7, null]}]'])
def test_content_of_another_form_is_left_out(viewer: ViewerThread, store: SqliteStore, text: str) -> None:
    write(store, set_attributes(span(7, 0, 0, 5), gen_ai__input__messages=text, gen_ai__output__messages=text))
    assert get(viewer, f"/trace/{trace_id(7)}/messages.json")["is_captured"] is True


KEYS = (
    semconv.OPERATION_NAME, semconv.LANGGRAPH_NODE, semconv.LANGGRAPH_STEP, semconv.STATUS,
    semconv.USAGE_INPUT_TOKENS, "other", "", "k" * 130,
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)
ATTRIBUTES = st.dictionaries(st.sampled_from(KEYS), VALUES)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), ATTRIBUTES), min_size=1, max_size=8))
def test_columns_equal_the_records_of_the_read_model(tmp_path_factory: Any, spans: list[Any]) -> None:
    store = SqliteStore(tmp_path_factory.mktemp("columns") / "store.db")
    for number, (start, attributes) in enumerate(spans):
        write(store, with_attributes(span(7, number, start, start + 1), attributes))
    with StoreReader(store) as reader:
        records = reader.get(trace_id(7))["spans"]
        document = documents.trace(reader, trace_id(7))
    store.close()
    columns, strings = document["spans"], document["strings"]
    assert columns["id"] == [record["span_id"] for record in records]

    def number_of(record: Any, key: str) -> int:
        value = record["attributes"].get(key)
        return value if isinstance(value, int) else -1

    assert [strings[i] for i in columns["operation"]] == [
        str(record["attributes"].get(semconv.OPERATION_NAME, "")) for record in records
    ]
    assert columns["step"] == [number_of(record, semconv.LANGGRAPH_STEP) for record in records]
    assert columns["tokens_in"] == [number_of(record, semconv.USAGE_INPUT_TOKENS) for record in records]


def with_attributes(made: Span, attributes: dict[str, Any]) -> Span:
    for key, value in attributes.items():
        kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}[type(value)]
        setattr(made.attributes.add(key=key).value, kind, value)
    return made


def test_the_store_need_not_exist() -> None:
    with ViewerThread(open_store()) as viewer:
        assert get(viewer, "/runs.json")["traces"] == []
