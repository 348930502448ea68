"""A LangGraph that lacks a seam: the program works, what is lost is said once, and what can serve instead does."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from langchain_core.language_models import FakeListLLM
from langgraph.types import Command, RetryPolicy, Send, interrupt

from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation._seams import Seams
from nodespan.instrumentation.langgraph import _seam
from nodespan.instrumentation.langgraph._fallback import NodeCallbacks
from nodespan.runner import PipelineFactory
from nodespan.testing import EchoPipeline, span_tree
from nodespan.types import ModelProfile, ModelProfileType
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState
from small_graphs import chain, fan, thread, without_ids

ALL = [seam.name for seam in _seam.SEAMS._seams]
NODES = ("run_with_retry", "arun_with_retry")
RUNS = ("stream", "astream")


@pytest.fixture
def lacking(monkeypatch, tracer_provider):
    """Switches instrumentation on with these seams not found, as after a renaming in LangGraph."""

    def switch(*names):
        def renamed(seam):
            is_lacking = seam.name in names and seam.class_name != "RemoteGraph"
            return replace(seam, name=f"{seam.name}_of_old") if is_lacking else seam

        seams = Seams("a LangGraph", tuple(map(renamed, _seam.SEAMS._seams)))
        monkeypatch.setattr(_seam, "SEAMS", seams)
        for part in ("RUNS", "NODES"):
            monkeypatch.setattr(_seam, part, tuple(map(renamed, getattr(_seam, part))))
        instrument(tracer_provider=tracer_provider, langchain=False, llama_cpp=False)

    yield switch
    uninstrument()


def step(state):
    return {"seen": [state.get("n", 0)]}


def fails(state):
    raise ValueError("down")


def names(tree):
    return {span["name"]: names(span["children"]) if "children" in span else {} for span in tree}


@pytest.mark.parametrize("name", ALL)
def test_without_a_seam_the_program_works_and_what_is_lost_is_said_once(run, lacking, caplog, exporter, name):
    graph = chain(step, ("inner", chain(step, name="Inner"), {}))
    plain = run(graph, {"seen": []})
    lacking(name)
    assert without_ids(run(graph, {"seen": []})) == without_ids(plain)
    assert exporter.get_finished_spans()
    lost = next(seam.lost for seam in _seam.SEAMS._seams if seam.name == f"{name}_of_old")
    (said,) = [record for record in caplog.records if record.name == "nodespan"]
    assert said.levelno == logging.WARNING
    assert f"{name}_of_old not found; {lost} will not be recorded." in said.getMessage()
    assert not [record for record in caplog.records if "Error in" in record.getMessage()]


async def test_whoever_listens_to_an_llm_hears_the_same_as_without_us(lacking):
    async def asks(state, config):
        return {"seen": [await FakeListLLM(responses=["x"]).ainvoke("a", config)]}

    async def heard():
        return [event["event"] async for event in chain(asks).astream_events({"seen": []}, version="v2")]

    plain = await heard()
    assert {"on_llm_start", "on_llm_end"} <= set(plain)
    lacking(*NODES)
    assert await heard() == plain


def test_without_the_seam_around_nodes_each_still_has_its_span(run, lacking, exporter):
    lacking(*NODES)
    run(chain(step, ("inner", chain(step, name="Inner"), {})), {"seen": []})
    inner = {"invoke_workflow Inner": {"invoke_node step": {}}}
    assert names(span_tree(exporter)) == {
        "invoke_workflow Main": {"invoke_node step": {}, "invoke_node inner": {}, **inner}
    }


def test_such_a_node_says_who_it_is(run, lacking, exporter):
    def sends(state):
        return Command(goto=[Send("leaf", {"n": 1}), Send("leaf", {"n": 2})])

    lacking(*NODES)
    run(chain((step.__name__, sends, {"destinations": ("leaf",)}), ("leaf", step, {})), {"seen": []})
    spans = [span for span in exporter.get_finished_spans() if span.name == "invoke_node leaf"]
    assert {span.attributes["langgraph.step"] for span in spans} <= {2, 3}
    assert len({span.attributes["langgraph.checkpoint_ns"] for span in spans}) == len(spans) >= 2
    assert {span.attributes["gen_ai.workflow.name"] for span in spans} == {"Main"}
    assert len({span.attributes["nodespan.node_id"] for span in spans}) == len(spans)


def test_such_a_node_ends_as_it_ended(run, lacking, exporter):
    lacking(*NODES)
    with pytest.raises(ValueError, match="down"):
        run(chain(fails), {"seen": []})
    assert span_tree(exporter, "nodespan.status", "error.type") == [
        {
            "name": "invoke_workflow Main",
            "status": "ERROR",
            "attributes": {"error.type": "ValueError", "nodespan.status": "error"},
            "children": [
                {
                    "name": "invoke_node fails",
                    "status": "ERROR",
                    "attributes": {"error.type": "ValueError", "nodespan.status": "error"},
                    "events": ["exception"],
                }
            ],
        }
    ]


def test_an_interrupt_in_such_a_node_is_no_error(run, lacking, exporter):
    from langgraph.checkpoint.memory import InMemorySaver

    def asks(state):
        return {"seen": [interrupt("?")]}

    lacking(*NODES)
    run(chain(asks, checkpointer=InMemorySaver()), {"seen": []}, thread())
    (root,) = span_tree(exporter, "nodespan.status")
    assert root["attributes"] == {"nodespan.status": "interrupted"}
    assert root["children"] == [{"name": "invoke_node asks", "attributes": {"nodespan.status": "interrupted"}}]


def test_each_attempt_is_a_span(run, lacking, exporter):
    failed = []

    def flaky(state):
        if not failed:
            failed.append(1)
            raise ConnectionError("down")
        return {}

    lacking(*NODES)
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ConnectionError)
    run(chain(("flaky", flaky, {"retry_policy": policy})), {"seen": []})
    (root,) = span_tree(exporter, "nodespan.status")
    assert [span["attributes"]["nodespan.status"] for span in root["children"]] == ["error", "ok"]


async def test_such_nodes_end_when_their_run_is_left(lacking, exporter, open_spans):
    lacking(*NODES)
    started = asyncio.Event()

    async def waits(state):
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(fan(waits).ainvoke({"seen": []}))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_spans.open == {}
    assert {span.attributes["nodespan.status"] for span in exporter.get_finished_spans()} == {"cancelled"}


def test_such_a_node_whose_end_nobody_tells_ends_with_its_run(run, lacking, exporter, open_spans, monkeypatch):
    lacking(*NODES)
    monkeypatch.setattr(NodeCallbacks, "_leave", lambda *_: None)
    run(chain(step), {"seen": []})
    assert open_spans.open == {}
    (root,) = span_tree(exporter, "nodespan.status")
    assert root["children"] == [{"name": "invoke_node step", "attributes": {"nodespan.status": "cancelled"}}]


@pytest.mark.parametrize("name", NODES)
def test_with_one_of_the_two_nothing_is_doubled(run, lacking, exporter, name):
    lacking(name)
    run(chain(step), {"seen": []})
    assert names(span_tree(exporter)) == {"invoke_workflow Main": {"invoke_node step": {}}}


def test_without_the_seams_around_runs_nodes_stand_alone(run, lacking, exporter):
    lacking(*RUNS)
    run(chain(step, ("inner", chain(step, name="Inner"), {})), {"seen": []})
    assert names(span_tree(exporter)) == {"invoke_node step": {}, "invoke_node inner": {"invoke_node step": {}}}


async def test_a_composers_run_with_a_pipeline_node_falls_back_too(lacking, tracer_provider, exporter):
    lacking(*NODES)
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(name="echo")}, create=EchoPipeline) as factory:
        from langgraph.graph import START, StateGraph

        builder = StateGraph(WorkflowState)
        node = PipelineNode(
            pipeline_factory=factory,
            profile_type=ModelProfileType.Primary,
            node_name="Shown",
            tracer_provider=tracer_provider,
        )
        builder.add_node("analyse", node)
        builder.add_edge(START, "analyse")
        composer = ComposerService(tracer_provider=tracer_provider)
        events = [
            event
            async for event in composer.execute_workflow(
                builder.compile(name="Main"), WorkflowState.from_prompt("say it", user_id="u")
            )
        ]
    (root,) = span_tree(exporter, "nodespan.node_name", "nodespan.status")
    assert [(child["name"], child["attributes"]["nodespan.node_name"]) for child in root["children"]] == [
        ("invoke_node analyse", "Shown")
    ]
    assert [below["name"] for below in root["children"][0]["children"]] == ["chat echo"]
    entries = events[-1]["data"]["node_metadata"]
    (node_span,) = [span for span in exporter.get_finished_spans() if span.name == "invoke_node analyse"]
    assert f"{node_span.context.span_id:016x}" in str(entries)
