"""`nodespan demo --server` on a true llama-server: the same workflow and trace as in process, but for the server."""

from __future__ import annotations

import re

import pytest

from llama_server import LlamaServer, free_port
from nodespan.cli import _workflow
from nodespan.types import Sampling
from otlp_receiver import OtlpReceiver

OF_THE_SERVER = {"server.address", "server.port", "nodespan.server.other_s", "nodespan.server.dialect"}
OF_A_NODE = {"nodespan.server_queue_s"}
PROTOCOL = {"nodespan.server_queue_s", "gen_ai.response.id"}
OF_THE_PROCESS = {  # a server reports only the number of cached tokens
    f"nodespan.prefix.{name}" for name in ("shared_tokens", "repeated_tokens", "previous_node", "cost_s")
}


def spans_of(cli, *arguments):
    with OtlpReceiver("http/protobuf") as receiver:
        cli("demo", "--otlp", receiver.endpoint, *arguments)
    assert cli.code == 0, cli.err
    return receiver.spans


def tree(spans, parent=""):
    return sorted((span.name, tree(spans, span.span_id)) for span in spans if span.parent_span_id == parent)


def without_the_servers_queue(branches):
    return [(name, without_the_servers_queue(below)) for name, below in branches if name != "server.queue"]


@pytest.mark.extended
def test_the_two_traces_differ_only_in_the_server(cli, smollm2, tmp_path, monkeypatch):
    monkeypatch.setattr(_workflow, "_SAMPLING", Sampling(max_tokens=6, temperature=0.0))
    local = spans_of(cli)
    with LlamaServer(smollm2, tmp_path) as server:
        served = spans_of(cli, "--server", server.url)
    assert without_the_servers_queue(tree(served)) == tree(local)
    assert [span.name for span in served].count("server.queue") == 4

    def kinds(spans):
        return {(span.name, span.kind) for span in spans}

    model = next(span.name for span in local if span.name.startswith("chat "))
    assert {name for name, _ in kinds(served) ^ kinds(local)} == {model, "server.queue"}
    assert {kind for name, kind in kinds(served) if name == model} == {"CLIENT"}

    def attributes(spans, name):
        return [set(span.attributes) for span in spans if span.name == name]

    for name in {span.name for span in local}:
        for ours, theirs in zip(attributes(local, name), attributes(served, name), strict=True):
            assert theirs - ours <= (OF_THE_SERVER | PROTOCOL if name == model else OF_A_NODE), name
            assert ours - theirs <= (OF_THE_PROCESS if name == model else set()), name
    values = [
        {span.attributes["gen_ai.provider.name"] for span in spans if span.name.startswith("chat ")}
        for spans in (local, served)
    ]
    assert values == [{"llama_cpp"}, {"llama_cpp"}]


@pytest.mark.extended
def test_answers_of_parallel_nodes_are_printed_one_after_the_other(cli, smollm2, tmp_path, monkeypatch):
    """A server with two slots generates both at once."""
    monkeypatch.setattr(_workflow, "_SAMPLING", Sampling(max_tokens=12, temperature=0.0))
    with LlamaServer(smollm2, tmp_path) as server:
        assert cli("demo", "--server", server.url).code == 0, cli.err
    printed = cli.out.partition("invoke_workflow")[0]
    begins = re.findall(r"^(answer|example|objection|summary)  ", printed, re.MULTILINE)
    assert sorted(begins) == ["answer", "example", "objection", "summary"]


def test_a_server_and_a_model_file_exclude_each_other(cli, tmp_path):
    cli("demo", "--server", "http://127.0.0.1:1/v1", "--model", str(tmp_path / "m.gguf"))
    assert cli.code == 2
    assert "--server" in cli.err


def test_an_unreachable_server_is_reported_with_a_remedy(cli):
    cli("demo", "--server", f"http://127.0.0.1:{free_port()}/v1")
    assert cli.code == 1
    assert "No model is listed at" in cli.err
    assert "Traceback" not in cli.err
