"""A LangGraph without a seam: the program works, one warning is logged, and a substitute is used if there is one."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace

import pytest
from langchain_core.language_models import FakeListLLM
from langgraph.types import Command, RetryPolicy, Send, interrupt

from nodespan import semconv
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

        monkeypatch.setattr(_seam, "SEAMS", Seams("a LangGraph", tuple(map(renamed, _seam.SEAMS._seams))))
        for part in ("RUNS", "NODES"):
            monkeypatch.setattr(_seam, part, tuple(map(renamed, getattr(_seam, part))))
        instrument(tracer_provider=tracer_provider, langchain=False, llama_cpp=False)

    # Wrappers of a dropped composer are inert, but they would not be those of this fixture.
    if _seam.SEAMS._claimants:  # the traceback of an error keeps a composer in a cycle
        gc.collect()
    _seam.release(switch)
    assert not _seam.SEAMS._installed
    yield switch
    uninstrument()


def step(state):
    return {"seen": [state.get("n", 0)]}


def fails(state):
    raise ValueError("down")


def names(tree):
    return {span["name"]: names(span["children"]) if "children" in span else {} for span in tree}


@pytest.mark.parametrize("name", ALL)
def test_a_missing_seam_logs_one_warning_and_the_program_works(run, lacking, caplog, exporter, name):
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


async def test_other_callbacks_receive_the_same_calls(lacking):
    async def asks(state, config):
        return {"seen": [await FakeListLLM(responses=["x"]).ainvoke("a", config)]}

    async def heard():
        return [event["event"] async for event in chain(asks).astream_events({"seen": []}, version="v2")]

    plain = await heard()
    assert {"on_llm_start", "on_llm_end"} <= set(plain)
    lacking(*NODES)
    assert await heard() == plain


def test_without_the_seam_of_nodes_each_node_has_a_span(run, lacking, exporter):
    lacking(*NODES)
    run(chain(step, ("inner", chain(step, name="Inner"), {})), {"seen": []})
    inner = {"invoke_workflow Inner": {"invoke_node step": {}}}
    assert names(span_tree(exporter)) == {
        "invoke_workflow Main": {"invoke_node step": {}, "invoke_node inner": {}, **inner}
    }


def test_a_node_from_callbacks_has_its_attributes(run, lacking, exporter):
    def sends(state):
        return Command(goto=[Send("leaf", {"n": 1}), Send("leaf", {"n": 2})])

    lacking(*NODES)
    run(chain((step.__name__, sends, {"destinations": ("leaf",)}), ("leaf", step, {})), {"seen": []})
    spans = [span for span in exporter.get_finished_spans() if span.name == "invoke_node leaf"]
    assert {span.attributes["langgraph.step"] for span in spans} <= {2, 3}
    assert len({span.attributes["langgraph.checkpoint_ns"] for span in spans}) == len(spans) >= 2
    assert {span.attributes["gen_ai.workflow.name"] for span in spans} == {"Main"}
    assert len({span.attributes["nodespan.node_id"] for span in spans}) == len(spans)


def test_a_node_from_callbacks_has_its_outcome(run, lacking, exporter):
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


def test_an_interrupt_in_a_node_from_callbacks_is_not_an_error(run, lacking, exporter):
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


def test_without_the_seam_of_the_back_off_an_unknown_number_and_duration_are_left_out(run, lacking, exporter):
    def flaky(state):
        failed.append(1)
        if len(failed) < 3:
            raise ConnectionError("down")
        return {}

    failed = []
    lacking("patch_configurable")
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ConnectionError)
    run(chain(("flaky", flaky, {"retry_policy": policy})), {"seen": []})
    node = next(span for span in exporter.get_finished_spans() if span.name.endswith("flaky"))
    first, second = (event.attributes for event in node.events)
    assert first[semconv.ATTEMPT] == 1
    assert first[semconv.ATTEMPT_DURATION] > 0
    assert second[semconv.ERROR_TYPE] == "ConnectionError"
    assert not {semconv.ATTEMPT, semconv.ATTEMPT_DURATION} & set(second)


async def test_nodes_from_callbacks_end_with_an_abandoned_run(lacking, exporter, open_spans):
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


def test_a_node_without_an_end_callback_ends_with_its_run(run, lacking, exporter, open_spans, monkeypatch):
    lacking(*NODES)
    monkeypatch.setattr(NodeCallbacks, "_leave", lambda *_: None)
    run(chain(step), {"seen": []})
    assert open_spans.open == {}
    (root,) = span_tree(exporter, "nodespan.status")
    assert root["children"] == [{"name": "invoke_node step", "attributes": {"nodespan.status": "cancelled"}}]


@pytest.mark.parametrize("name", NODES)
def test_with_one_of_the_two_seams_no_span_is_duplicated(run, lacking, exporter, name):
    lacking(name)
    run(chain(step), {"seen": []})
    assert names(span_tree(exporter)) == {"invoke_workflow Main": {"invoke_node step": {}}}


def test_without_the_seams_of_runs_nodes_have_no_parent(run, lacking, exporter):
    lacking(*RUNS)
    run(chain(step, ("inner", chain(step, name="Inner"), {})), {"seen": []})
    assert names(span_tree(exporter)) == {"invoke_node step": {}, "invoke_node inner": {"invoke_node step": {}}}


async def test_a_composed_run_with_a_pipeline_node_uses_callbacks(lacking, tracer_provider, exporter):
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
