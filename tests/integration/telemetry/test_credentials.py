"""Credentials in every place where a program can have them: never logged, shown or stored, and part of the identity."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace

from nodespan.delivery.destination import Destination, normalised, without_credentials
from nodespan.delivery.flush import list_waiting
from nodespan.errors import ConfigurationError
from nodespan.store import store_path
from nodespan.telemetry import configure
from nodespan.telemetry.settings import Settings
from otlp_receiver import OtlpReceiver

SECRET = "s3cr3t"
STORE_KEY = b"k" * 32


@pytest.fixture(autouse=True)
def only_traces(monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://[::1",
        f"http://user:{SECRET}@host:abc",
        f"http://user:{SECRET}@[::1",
        f"user:{SECRET}@host:4318",
        f"http:/user:{SECRET}@host:4318",
        f"http://user:{SECRET}?a@host:4318",
        f"http:///?token={SECRET}",
        f"ftp://user:{SECRET}@host#{SECRET}",
    ],
)
def test_an_invalid_endpoint_is_reported_once_without_its_credentials(endpoint, monkeypatch, caplog):
    with pytest.raises(ConfigurationError) as raised:
        configure(endpoint=endpoint)
    assert SECRET not in str(raised.value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    with caplog.at_level(logging.WARNING), configure() as telemetry:
        trace.get_tracer("x").start_span("kept").end()
        assert telemetry.force_flush(5).stored == 1
    (record,) = [record for record in caplog.records if record.name == "nodespan"]
    assert record.__dict__["nodespan.code"] == "configure.invalid_variable"
    assert SECRET not in caplog.text


def test_another_endpoint_of_a_second_configuration_is_named_without_credentials():
    configure(endpoint=f"http://user:{SECRET}@host:1/?token={SECRET}")
    with pytest.raises(ConfigurationError, match="another endpoint") as raised:
        configure(endpoint=f"http://user:{SECRET}{SECRET}@host:2")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("endpoint", ["user:s3cr3t@host:4317", "http://user:s3cr3t@host:4317"])
def test_user_information_of_a_grpc_target_is_sent_as_a_header(endpoint):
    destination = Settings(endpoint=endpoint, protocol="grpc").destination()
    assert destination is not None
    assert destination.headers["authorization"] == "Basic " + base64.b64encode(b"user:s3cr3t").decode()
    assert SECRET not in destination.endpoint


@pytest.mark.parametrize(
    "header", [f"Bearer {SECRET}", f"={SECRET}", f"authorization Bearer {SECRET}", f"k={SECRET}\n"]
)
def test_a_header_variable_of_another_form_is_reported_without_its_text(header, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", f"x-good=1,{header}a,x-too=2")
    with caplog.at_level(logging.DEBUG), configure():
        destination = Settings().destination()
    assert destination is not None
    assert destination.headers == {"x-good": "1", "x-too": "2"}
    assert SECRET not in caplog.text
    assert "OTEL_EXPORTER_OTLP_TRACES_HEADERS" in caplog.text


def test_values_of_a_header_variable_may_be_encoded_or_not(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    text = "Authorization=Basic%20dXNlcg%3D%3D , x-plain = Bearer a=b==, ,x-empty=,"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", text)
    destination = Settings().destination()
    assert destination is not None
    assert destination.headers == {"authorization": "Basic dXNlcg==", "x-plain": "Bearer a=b==", "x-empty": ""}


def test_the_path_of_a_signal_precedes_the_query(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://host:4318/base/?token={SECRET}")
    destination = Settings().destination()
    assert destination is not None
    assert destination.endpoint == f"http://host:4318/base/v1/traces?token={SECRET}"
    assert SECRET not in repr(destination)
    assert destination.label == "http://host:4318/base/v1/traces"


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("https://h/receiver/v1/otlp/ZaVnC4dhaV0s3cr3tpOf9sd8f7/v1/traces", "https://h/receiver/v1/otlp/.../v1/traces"),
        ("https://otlp-gateway-prod-us-central-0.grafana.net/otlp", None),
        ("https://h/api/public/otel/v1/traces", None),
        ("https://h:443/some-long-name-of-a-path-segment/v1", None),
        ("unix:/run/otel.sock", None),
        ("host:4317", None),
    ],
)
def test_a_path_segment_that_looks_like_a_token_is_not_shown(endpoint, shown):
    assert without_credentials(endpoint) == (shown or endpoint)
    assert Destination(endpoint).label == (shown or endpoint)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_credential_that_the_destination_repeats_is_neither_logged_nor_stored(protocol, caplog):
    words = f"no access with {SECRET} of token-{SECRET}"
    with OtlpReceiver(protocol) as receiver:
        answer = (401, {}, words.encode()) if protocol == "http/protobuf" else (grpc.StatusCode.UNAUTHENTICATED, words)
        receiver.answers.extend([answer] * 20)
        headers = {"authorization": f"Bearer {SECRET}", "x-api-key": f"token-{SECRET}"}
        with configure(endpoint=receiver.endpoint, protocol=protocol, headers=headers) as telemetry:
            trace.get_tracer("x").start_span("kept").end()
            assert telemetry.force_flush(1).waiting == 1
    (waiting,) = list_waiting()
    assert waiting.last_error is not None
    assert "no access with" in waiting.last_error
    assert SECRET not in caplog.text + waiting.last_error
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in store_path().parent.rglob("*") if p.is_file())


ACCOUNTS = [
    "authorization", "helicone-auth", "cookie", "x-honeycomb-team", "x-honeycomb-dataset", "uptrace-dsn", "api-key",
    "x-sf-token", "client-secret", "x-password", "x-scope-orgid", "x-org-id", "organization", "x-tenant",
    "langsmith-project", "space_id", "comet-workspace", "x-namespace", "stream-name", "x-account", "x-user-id",
    "x-credential", "x-database",
]  # fmt: skip
OTHERS = ["x-other", "user-agent", "x-request-id", "accept", "content-language", "x-forwarded-for", "x-origin"]


def identity(**values):
    return Destination("http://h/v1/traces", **values).identity(STORE_KEY)


@pytest.mark.parametrize("header", ACCOUNTS)
def test_a_header_that_chooses_an_account_is_part_of_the_identity(header):
    assert identity(headers={header: "a"}) != identity(headers={header: "b"})


@pytest.mark.parametrize("header", OTHERS)
def test_another_header_is_not_part_of_the_identity(header):
    assert identity(headers={header: "a"}) == identity(headers={header: "b"})


def test_certificate_and_key_of_the_client_are_part_of_the_identity(tmp_path, monkeypatch):
    base = identity(client_certificate="c.pem", client_key="k.pem")
    assert identity(client_certificate="c.pem", client_key="other.pem") != base
    assert identity(client_certificate=str(Path("c.pem").absolute()), client_key=str(Path("k.pem").absolute())) == base
    monkeypatch.chdir(tmp_path)  # the same names are other files there
    assert identity(client_certificate="c.pem", client_key="k.pem") != base


def test_grpc_with_and_without_tls_are_two_destinations_and_spellings_are_one():
    def of(endpoint, insecure=None):
        url, _ = normalised(endpoint)
        is_insecure = endpoint.startswith("http:") if insecure is None else insecure
        return Destination(url, "grpc", is_insecure=is_insecure).identity(STORE_KEY)

    assert of("host:4317", insecure=True) != of("host:4317", insecure=False)
    assert of("host:4317", insecure=True) == of("http://HOST:4317/") == of("http://host:4317")
    assert of("host:4317", insecure=False) == of("https://host:4317")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_since_the_credentials_would_go_along(status):
    with OtlpReceiver() as other, OtlpReceiver() as receiver:
        receiver.answers.extend([(status, {"location": f"{other.endpoint}/v1/traces"}, b"")] * 20)
        with configure(endpoint=receiver.endpoint, headers={"x-api-key": SECRET}) as telemetry:
            trace.get_tracer("x").start_span("kept").end()
            assert telemetry.force_flush(0.5).waiting == 1
        assert not other.requests
        assert receiver.requests


@pytest.mark.parametrize("headers", [{"authorization": "Bearer mine"}, {"x-api-key": "mine"}])
def test_credentials_of_a_netrc_file_are_not_sent(headers, monkeypatch, tmp_path):
    """The requests library would replace a configured authorization by the file's, for every signal."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login other password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("OTEL_METRICS_EXPORTER")
    monkeypatch.delenv("OTEL_LOGS_EXPORTER")
    with OtlpReceiver() as receiver:
        with configure(endpoint=receiver.endpoint, headers=headers) as telemetry:
            trace.get_tracer("x").start_span("sent").end()
            logging.getLogger("nodespan").warning("sent")
            assert telemetry.force_flush(20).exported == 1
        assert {request[":path"] for request in receiver.requests} == {"/v1/traces", "/v1/metrics", "/v1/logs"}
        for request in receiver.requests:
            assert request.get("authorization") == headers.get("authorization"), request[":path"]
