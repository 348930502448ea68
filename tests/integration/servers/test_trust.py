"""Credentials, certificates and trace context: what a server is sent, and what of it is shown."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from model_calls import text_of, the_span
from nodespan.engine.openai_compatible.endpoints import propagates_to
from nodespan.engine.openai_compatible.wire import objects
from nodespan.errors import ConfigurationError, ServerError
from nodespan.runner import OpenAICompatiblePipeline, PipelineFactory, PipelineStream, Runner
from nodespan.testing import FakeServer
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import chat

PROBED = ["/props", "/api/version", "/model_info", "/get_model_info", "/version", "/openapi.json"]
SECRET = "sk-canary-0123456789"
Ask = Callable[..., PipelineStream]


def test_a_server_is_probed_once_and_without_credentials(run: Callable[..., Ask]) -> None:
    with FakeServer("openai", api_key=SECRET) as server:
        ask = run(server, api_key=SECRET, headers={"X-Tenant": "t1"})
        for _ in range(3):
            assert text_of(ask(chat("a")))
    assert [one.path for one in server.probes] == PROBED
    assert not any("authorization" in one.headers or "x-tenant" in one.headers for one in server.probes)
    assert {one.headers["authorization"] for one in server.received} == {f"Bearer {SECRET}"}
    assert {one.headers["x-tenant"] for one in server.received} == {"t1"}


def test_a_redirect_is_not_followed(run: Callable[..., Ask]) -> None:
    with FakeServer("openai") as other, FakeServer("openai", redirect_to=other.url) as server:
        with pytest.raises(ServerError, match=r"307.*not followed"):
            text_of(run(server, api_key=SECRET)(chat("a")))
        assert other.received == []


def test_repr_spans_logs_and_errors_do_not_contain_a_key(
    run: Callable[..., Ask],
    exporter: InMemorySpanExporter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    with FakeServer("openai", api_key="another") as server:
        profile = {"api_key": SECRET, "headers": {"X-Key": SECRET}}
        with pytest.raises(ServerError, match=r"401.*bad key") as raised:
            text_of(run(server, **profile)(chat("a")))
        shown = [repr(ModelProfile(base_url=server.url, name="m", **profile)), str(raised.value), caplog.text]
    shown += [span.to_json() for span in exporter.get_finished_spans()]
    assert server.received[0].headers["authorization"] == f"Bearer {SECRET}"
    assert not [text for text in shown if SECRET in text]


def test_the_body_of_an_error_is_cut_and_redacted(run: Callable[..., Ask]) -> None:
    body = f"Bearer {SECRET} " + "x" * 100_000
    with FakeServer("openai", status=400, error_body=body) as server, pytest.raises(ServerError) as raised:
        text_of(run(server, api_key=SECRET)(chat("a")))
    assert 500 < len(str(raised.value)) < 600
    assert "Bearer *** xxx" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_server_outside_of_private_networks_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(httpx, "Client", opened)
    pipeline = OpenAICompatiblePipeline(ModelProfile(base_url="http://8.8.8.8/v1", name="m"))
    assert pipeline.slots == 8


def test_certificates_are_verified_by_the_given_authorities(run: Callable[..., Ask], tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FakeServer("openai") as server:
        assert server._server is not None
        server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        for verify in (tmp_path / "authority.pem", False):
            assert text_of(run(server, base_url=url, verify=verify)(chat("a"))) == "The sea is wide."
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            text_of(run(server, base_url=url)(chat("a")))


def test_the_key_of_the_environment_is_sent_only_to_its_address(
    run: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer("openai") as server:
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
        text_of(run(server)(chat("a")))
        assert "authorization" not in server.received[0].headers
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        profiles = {ModelProfileType.Primary: ModelProfile(name="m")}
        with PipelineFactory(profiles, create=OpenAICompatiblePipeline) as factory:
            text_of(Runner(factory).stream_pipeline(chat("a")))
        assert server.received[1].headers["authorization"] == f"Bearer {SECRET}"


def test_only_the_trace_context_is_propagated_to_the_server(
    run: Callable[..., Ask], tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    from opentelemetry import baggage, context

    with FakeServer("vllm") as server:
        token = context.attach(baggage.set_baggage("user", "canary"))
        with tracer_provider.get_tracer("test").start_as_current_span("caller"):
            text_of(run(server)(chat("a")))
        context.detach(token)
    headers = server.received[0].headers
    span = the_span(exporter).get_span_context()
    assert headers["traceparent"] == f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    assert "baggage" not in headers
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize(
    ("hosts", "is_sent"), [("127.0.0.1", True), ("*", True), ("", False), ("a.example,*.b", False)]
)
def test_the_trace_is_sent_to_the_listed_hosts_only(
    hosts: str, is_sent: bool, run: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODESPAN_PROPAGATE_HOSTS", hosts)
    with FakeServer("vllm") as server:
        text_of(run(server)(chat("a")))
    assert ("traceparent" in server.received[0].headers) == is_sent


@pytest.mark.parametrize(
    ("host", "is_sent"),
    [
        ("x.b", True),
        ("y.x.b", True),
        ("X.B", True),
        ("a.example", True),
        ("b", False),
        ("xb", False),
        ("c.a.example", False),
    ],
)
def test_a_star_stands_for_the_hosts_below_a_name(host: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODESPAN_PROPAGATE_HOSTS", "a.example, *.b")
    assert propagates_to(host) == is_sent


async def test_an_error_inside_a_stream_does_not_contain_a_key() -> None:
    async def chunks(*lines: bytes) -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    for line in (f'data: {{"error": {{"message": "bad {SECRET}"}}}}\n', f"data: {{{SECRET}\n"):
        with pytest.raises(ServerError, match=r"\*\*\*") as raised:
            _ = [event async for event in objects(chunks(line.encode()), [SECRET])]
        assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"base_url": "http://user:canary@127.0.0.1:1/v1"}, "user name or a password"),
        ({"base_url": "ftp://127.0.0.1/v1"}, "not the address of a server"),
        ({"base_url": "127.0.0.1:8080"}, "not the address of a server"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "not a valid URL"),
        ({"base_url": "http://127.0.0.1:1/v1?key=canary"}, "without a query"),
        ({"base_url": "http://127.0.0.1:1/v1", "name": ""}, "no name"),
        ({"base_url": "http://127.0.0.1:1/v1", "dialect": "other"}, "dialect"),
    ],
)
def test_an_invalid_profile_is_rejected_at_set_up(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        PipelineFactory({ModelProfileType.Primary: ModelProfile(**{"name": "m", **profile})})
    assert "user:canary" not in str(raised.value)
