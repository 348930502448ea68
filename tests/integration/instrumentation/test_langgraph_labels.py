"""Tags, metadata, thread, user and conversation of a run: on its span and the spans of its nodes only."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import RetryPolicy

from nodespan.runner import PipelineFactory
from nodespan.spans.redaction import set_redaction
from nodespan.testing import EchoPipeline
from nodespan.types import ModelProfile, ModelProfileType
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState
from small_graphs import chain, fan
from workflow_graphs import one_node

KEYS = "NODESPAN_METADATA_KEYS"


def step(state):
    return {"seen": [0]}


def labels(span):
    """Tags and metadata of a span, without prefixes."""
    return {
        key.removeprefix("nodespan.").removeprefix("metadata."): value
        for key, value in span.attributes.items()
        if key == "nodespan.tags" or key.startswith("nodespan.metadata.")
    }


def found(exporter):
    return {span.name.split()[-1]: span for span in exporter.get_finished_spans()}


@pytest.mark.usefixtures("traced")
def test_tags_and_ids_are_on_the_run_and_on_its_nodes(run, exporter):
    graph = chain(step, ("inner", chain(step, name="Inner"), {}), checkpointer=InMemorySaver())
    config = {
        "tags": ["nightly", "eval"],
        "metadata": {"user_id": "u1", "session_id": 7, "secret_plan": "x", "other": "y"},
        "configurable": {"thread_id": "t1"},
    }
    run(graph, {"seen": []}, config)
    spans = exporter.get_finished_spans()
    assert len(spans) == 5
    for span in spans:
        assert labels(span) == {"tags": ("nightly", "eval"), "user_id": "u1", "session_id": 7}
        assert span.attributes["user.id"] == "u1"
        assert span.attributes["gen_ai.conversation.id"] == span.attributes["langgraph.thread.id"] == "t1"


@pytest.mark.usefixtures("traced")
def test_labels_of_with_config_are_recorded(exporter):
    graph = chain(step).with_config(tags=["own"], metadata={"session_id": "s"})
    graph.invoke({"seen": []}, {"tags": ["call"], "metadata": {"conversation_id": "c"}})
    for span in exporter.get_finished_spans():
        assert labels(span) == {"tags": ("own", "call"), "session_id": "s", "conversation_id": "c"}
        assert span.attributes["gen_ai.conversation.id"] == "c"


@pytest.mark.usefixtures("traced")
def test_a_run_without_labels_has_no_such_attributes(exporter):
    fan(step).invoke({"seen": []})
    assert [labels(span) for span in exporter.get_finished_spans()] == [{}, {}]


@pytest.mark.usefixtures("traced")
def test_other_metadata_keys_are_recorded_only_if_listed(exporter, monkeypatch):
    secret = {"api_key": "k", "AuthHeader": "h", "csrf_token": "t", "Secret": "s", "db.password": "p"}
    metadata = {"plan": "free", "region": "eu", **secret, "list": [1], "long": "x" * 257}
    for keys in ("", "plan", "*", ",".join(secret)):
        monkeypatch.setenv(KEYS, keys)
        chain(step).invoke({"seen": []}, {"metadata": metadata})
    runs = [span for span in exporter.get_finished_spans() if span.name.startswith("invoke_workflow")]
    assert [labels(span) for span in runs] == [{}, {"plan": "free"}, {"plan": "free", "region": "eu"}, {}]


@pytest.mark.usefixtures("traced")
def test_tags_of_langchain_and_langsmith_are_not_recorded(exporter):
    tags = ["graph:step:1", "seq:step:2", "map:key:a", "langsmith:hidden", "mine"]
    chain(step).invoke({"seen": []}, {"tags": tags})
    assert {labels(span)["tags"] for span in exporter.get_finished_spans()} == {("mine",)}


@pytest.mark.usefixtures("traced")
def test_metadata_set_by_langgraph_are_not_recorded(run, exporter, monkeypatch):
    monkeypatch.setenv(KEYS, "*")
    graph = chain(step, ("inner", chain(step, name="Inner"), {}), checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t", "model": "m", "checkpoint_ns": ""}, "metadata": {"mine": True}}
    run(graph.with_config(configurable={"model": "m"}), {"seen": []}, config)
    assert {str(labels(span)) for span in exporter.get_finished_spans()} == {"{'mine': True}"}


@pytest.mark.usefixtures("traced")
def test_labels_are_bounded_and_redacted(exporter, monkeypatch):
    monkeypatch.setenv(KEYS, "*")
    set_redaction(lambda text: text.replace("Ann", "***"))
    tags = ["Ann", "x" * 300, *map(str, range(100))]
    chain(step).invoke({"seen": []}, {"tags": tags, "metadata": {"who": "Ann", **{f"n{i}": i for i in range(100)}}})
    for span in exporter.get_finished_spans():
        held = labels(span)
        assert held["tags"][:2] == ("***", "0")
        assert held["who"] == "***"
        assert len(held["tags"]) == len(held) - 1 == 32


async def test_composed_runs_have_their_labels(exporter, tracer_provider):
    profile = ModelProfile(name="echo")
    with PipelineFactory({ModelProfileType.Primary: profile}, create=EchoPipeline) as models:
        graph = one_node(PipelineNode(pipeline_factory=models, tracer_provider=tracer_provider))
        composer = ComposerService(tracer_provider=tracer_provider)
        config = {"tags": ["t"], "metadata": {"session_id": "s"}}
        async for _ in composer.execute_workflow(graph, WorkflowState.from_prompt("hi", user_id="u"), config=config):
            pass
    run = next(span for span in exporter.get_finished_spans() if span.name.startswith("invoke_workflow"))
    assert labels(run) == {"tags": ("t",), "session_id": "s"}
    assert found(exporter)["analyse"].attributes["nodespan.tags"] == ("t",)
    assert run.attributes["user.id"] == "u"


@pytest.mark.usefixtures("traced")
def test_a_failed_attempt_has_type_message_and_stack(run, exporter):
    calls = []

    def flaky(state):
        calls.append(1)
        if len(calls) < 2:
            raise ConnectionError("refused")
        return {"seen": [0]}

    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    run(chain(("flaky", flaky, {"retry_policy": policy})), {"seen": []})
    (event,) = found(exporter)["flaky"].events
    assert event.name == "nodespan.attempt_failed"
    assert event.attributes["exception.type"] == event.attributes["error.type"] == "ConnectionError"
    assert event.attributes["exception.message"] == "refused"
    assert "in flaky" in event.attributes["exception.stacktrace"]
    assert event.attributes["nodespan.attempt"] == 1
