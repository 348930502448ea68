"""Spans that programs send to the viewer: kept once each, refused with the answer that OTLP names."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Callable

import httpx
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from batches import encoded, span, write
from nodespan.otlp import to_json
from nodespan.store import SqliteStore, StoreReader
from nodespan.viewer.receiver import BODY_MAX_BYTES, REQUESTS_MAX, UNPACKED_MAX_BYTES
from viewer_process import ViewerThread

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
TRACE = f"{7:032x}"


def body(*numbers: int) -> bytes:
    return encoded(*(span(7, number, 100 + number, 101 + number) for number in numbers or (0,))).data


def stored(viewer: ViewerThread) -> list[str]:
    answer = viewer.client.get(f"/trace/{TRACE}.json")
    return sorted(answer.json()["spans"]["id"]) if answer.status_code == 200 else []


def as_json(data: bytes) -> bytes:
    return json.dumps({"resourceSpans": to_json(data)}).encode()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_an_unmodified_exporter_of_the_sdk_sends_its_spans(viewer: ViewerThread, compression: Compression) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{viewer.base}/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("order") as order, tracer.start_as_current_span("pay"):
        pass
    provider.shutdown()
    trace_id = f"{order.get_span_context().trace_id:032x}"
    listed = viewer.client.get("/runs.json", params={"service": "shop"}).json()["traces"]
    assert [(trace["trace_id"], trace["name"], trace["spans"]) for trace in listed] == [(trace_id, "order", 2)]
    document = viewer.client.get(f"/trace/{trace_id}.json").json()
    assert [document["strings"][name] for name in document["spans"]["name"]] == ["order", "pay"]
    assert document["spans"]["parent"] == [-1, 0]


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("headers", [PROTOBUF, JSON, {"content-type": "application/json; charset=utf-8"}])
def test_the_answer_has_the_encoding_of_the_request(
    viewer: ViewerThread, headers: dict[str, str], is_packed: bool
) -> None:
    is_json = "json" in headers["content-type"]
    content = as_json(body(0, 1)) if is_json else body(0, 1)
    if is_packed:
        content, headers = gzip.compress(content), {**headers, "content-encoding": "gzip"}
    answer = viewer.new_client().post("/v1/traces", content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, headers["content-type"].partition(";")[0])
    assert answer.json() == {} if is_json else answer.content == b""
    assert stored(viewer) == ["0000000000001b59", "0000000000001b5a"]


def test_json_and_protobuf_store_the_same_spans(viewer: ViewerThread, store: SqliteStore) -> None:
    one = span(7, 0, 100, 101, failed=True, node="plan")
    one.kind = 3
    one.trace_state = "a=b"
    one.status.message = "no"
    for key, value in (("int", 2**62), ("double", 0.5), ("flag", True), ("text", "täxt")):
        added = one.attributes.add(key=key).value
        setattr(
            added,
            {int: "int_value", float: "double_value", bool: "bool_value", str: "string_value"}[type(value)],
            value,
        )
    one.attributes.add(key="bytes").value.bytes_value = b"\x00\xff"
    several = one.attributes.add(key="list").value.array_value
    several.values.add().string_value = "x"
    pairs = several.values.add().kvlist_value
    pairs.values.add(key="k").value.int_value = -1
    event = one.events.add(name="happened", time_unix_nano=5)
    event.attributes.add(key="e").value.int_value = 1
    link = one.links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    link.attributes.add(key="l").value.string_value = "v"
    data = encoded(one).data
    viewer.client.post("/v1/traces", content=as_json(data), headers=JSON).raise_for_status()
    with StoreReader(store) as reader:
        (kept, _), *rest = reader.iter_batches()
    assert rest == []
    assert ExportTraceServiceRequest.FromString(kept) == ExportTraceServiceRequest.FromString(data)


def test_a_span_that_is_sent_again_is_kept_once(viewer: ViewerThread) -> None:
    for numbers in ((0, 1), (1, 2), (2, 2, 3)):
        viewer.client.post("/v1/traces", content=body(*numbers), headers=PROTOBUF).raise_for_status()
    assert len(stored(viewer)) == 4
    assert viewer.client.get("/runs.json").json()["traces"][0]["spans"] == 4


def test_a_received_span_that_its_program_stored_is_kept_once(viewer: ViewerThread, store: SqliteStore) -> None:
    write(store, span(7, 0, 100, 101))
    viewer.client.post("/v1/traces", content=body(0, 1), headers=PROTOBUF).raise_for_status()
    write(store, span(7, 2, 102, 103))
    viewer.client.post("/v1/traces", content=body(1, 2, 3), headers=PROTOBUF).raise_for_status()
    assert viewer.client.get("/runs.json").json()["traces"][0]["spans"] == 4


def test_received_spans_have_no_destination(viewer: ViewerThread, store: SqliteStore) -> None:
    viewer.client.post("/v1/traces", content=body(0), headers=PROTOBUF).raise_for_status()
    assert (store.stats().spans, store.stats().waiting, store.stats().destinations) == (1, 0, [])


@pytest.mark.parametrize("is_json", [False, True])
def test_invalid_spans_are_rejected_and_the_others_kept(viewer: ViewerThread, is_json: bool) -> None:
    bad_id = span(7, 1, 1, 2)
    bad_id.trace_id = b"short"
    zero = span(7, 2, 1, 2)
    zero.span_id = bytes(8)
    late = span(7, 3, 1, 2)
    late.end_time_unix_nano = 2**63
    kind = span(7, 4, 1, 2)
    kind.kind = 17  # type: ignore[assignment]
    data = encoded(bad_id, span(7, 0, 1, 2), zero, late, kind).data
    answer = viewer.client.post(
        "/v1/traces", content=as_json(data) if is_json else data, headers=JSON if is_json else PROTOBUF
    )
    assert answer.status_code == 200
    if is_json:
        partial = answer.json()["partialSuccess"]
        assert (partial["rejectedSpans"], "trace id" in partial["errorMessage"]) == ("4", True)
    else:
        rejection = ExportTraceServiceResponse.FromString(answer.content).partial_success
        assert (rejection.rejected_spans, "trace id" in rejection.error_message) == (4, True)
    assert len(stored(viewer)) == 1


DEEP = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": TRACE, "spanId": "0" * 15 + "1",
    "attributes": [{"key": "a", "value": None}]}]}]}]})  # fmt: skip


def nested(levels: int) -> bytes:
    value = '{"arrayValue":{"values":[' * levels + '{"intValue":"1"}' + "]}}" * levels
    return DEEP.replace("null", value).encode()


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"\xff\xff", PROTOBUF, 400),
        (b"{", JSON, 400),
        (b'{"resourceSpans": [7]}', JSON, 400),
        (b'{"resourceSpans": {"a": 1}}', JSON, 400),
        (b"[]", JSON, 400),
        (nested(40), JSON, 400),
        (b'{"resourceSpans":' * 5000, JSON, 400),
        (nested(5000), JSON, 400),
        (b"spans", {"content-type": "text/plain"}, 415),
        (b"spans", {}, 415),
        (b"", {**PROTOBUF, "content-encoding": "br"}, 415),
        (b"no gzip", {**PROTOBUF, "content-encoding": "gzip"}, 400),
        (gzip.compress(b"")[:-4], {**PROTOBUF, "content-encoding": "gzip"}, 400),
        (b"x" * (BODY_MAX_BYTES + 1), PROTOBUF, 413),
        (gzip.compress(bytes(UNPACKED_MAX_BYTES + 1)), {**PROTOBUF, "content-encoding": "gzip"}, 413),
    ],
    ids=[
        "bytes",
        "cut",
        "a number",
        "a map",
        "a list",
        "40 levels",
        "5,000 maps",
        "5,000 levels",
        "text",
        "no type",
        "brotli",
        "no gzip",
        "cut gzip",
        "large",
        "gzip bomb",
    ],
)
def test_an_invalid_message_is_refused_with_a_reason(
    viewer: ViewerThread, content: bytes, headers: dict[str, str], status: int
) -> None:
    answer = viewer.client.post("/v1/traces", content=content, headers=headers)
    assert answer.status_code == status
    if headers.get("content-type") == PROTOBUF["content-type"]:
        assert answer.headers["content-type"] == "application/x-protobuf"
        assert Status.FromString(answer.content).message
    else:
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["message"]
    viewer.client.post(
        "/v1/traces", content=body(0), headers=PROTOBUF
    ).raise_for_status()  # later requests are answered


def test_a_value_of_many_levels_is_accepted_up_to_the_limit(viewer: ViewerThread) -> None:
    viewer.client.post("/v1/traces", content=nested(30), headers=JSON).raise_for_status()
    assert len(stored(viewer)) == 1


def test_a_body_of_unknown_length_is_bounded(viewer: ViewerThread) -> None:
    answer = viewer.client.post(
        "/v1/traces", content=(b"x" * 65536 for _ in range(BODY_MAX_BYTES // 65536 + 2)), headers=PROTOBUF
    )
    assert answer.status_code == 413


def test_more_requests_at_once_than_allowed_are_refused_until_one_ends(viewer: ViewerThread) -> None:
    head = f"POST /v1/traces HTTP/1.1\r\nhost: {viewer.base[7:]}\r\ncontent-type: {PROTOBUF['content-type']}\r\n"
    with contextlib.ExitStack() as clients:

        def begin() -> None:
            client = clients.enter_context(socket.create_connection(("127.0.0.1", viewer.settings.port)))
            client.sendall(f"{head}content-length: 100\r\n\r\n".encode())  # and no body yet

        for _ in range(REQUESTS_MAX - 1):
            begin()
        refused = answered(viewer, 429, meanwhile=begin)
        assert refused.headers["retry-after"] == "1"
    answered(viewer, 200)


def test_more_bytes_per_second_than_allowed_are_refused(viewer: ViewerThread) -> None:
    packed, headers = gzip.compress(bytes(UNPACKED_MAX_BYTES)), {**PROTOBUF, "content-encoding": "gzip"}
    statuses = [viewer.client.post("/v1/traces", content=packed, headers=headers).status_code for _ in range(20)]
    assert statuses[0] == 400  # not a message
    assert 429 in statuses


def answered(viewer: ViewerThread, status: int, meanwhile: Callable[[], None] = lambda: None) -> httpx.Response:
    """The first answer with this status."""
    until = time.monotonic() + 5
    while (answer := viewer.client.post("/v1/traces", content=body(), headers=PROTOBUF)).status_code != status:
        assert time.monotonic() < until, answer.status_code
        meanwhile()
        time.sleep(0.02)
    return answer


def test_a_large_message_is_stored_as_batches_of_the_usual_size(viewer: ViewerThread, store: SqliteStore) -> None:
    spans = [span(7, number, 1, 2) for number in range(600)]
    for one in spans:
        one.attributes.add(key="text").value.string_value = "x" * 10_000
    viewer.client.post("/v1/traces", content=encoded(*spans).data, headers=PROTOBUF).raise_for_status()
    with StoreReader(store) as reader:
        sizes = [len(data) for data, _ in reader.iter_batches()]
    assert len(sizes) > 4
    assert max(sizes) <= 1024 * 1024
    assert len(stored(viewer)) == 600


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-origin"}, {"host": "evil.example"}],
    ids=str,
)  # fmt: skip
def test_a_web_page_cannot_send_spans(viewer: ViewerThread, headers: dict[str, str]) -> None:
    answer = viewer.client.post("/v1/traces", content=body(0), headers={**PROTOBUF, **headers})
    assert answer.status_code == 403
    own = viewer.client.post(
        "/v1/traces", content=body(0), headers={**PROTOBUF, "origin": viewer.base, "sec-fetch-site": "same-origin"}
    )
    assert own.status_code == 403
    assert stored(viewer) == []
