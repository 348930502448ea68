"""One trace across two processes: a graph whose model is a graph behind FastAPI in another process, in one store."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from inline_snapshot import snapshot
from langgraph.graph import START, StateGraph
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import nodespan
from batches import encoded
from llama_server import PATIENCE_S, free_port
from nodespan import ComposerService, ModelProfile, ModelProfileType, PipelineFactory, PipelineNode, WorkflowState
from nodespan.store import StoreReader
from nodespan.testing import FakeServer
from nodespan.viewer.receiver import PROTOBUF
from pipelines import wait_for
from viewer_process import ViewerThread

SERVER = """
    import json, sys
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse
    from langgraph.graph import START, StateGraph
    from opentelemetry import context, propagate
    import nodespan
    from nodespan import (ComposerService, ModelProfile, ModelProfileType, PipelineFactory, PipelineNode, WorkflowState)
    from nodespan.testing import EchoPipeline

    nodespan.configure("serving")
    factory = PipelineFactory({ModelProfileType.Primary: ModelProfile(name="inner")}, create=EchoPipeline)
    graph = StateGraph(WorkflowState)
    graph.add_node("speak", PipelineNode(pipeline_factory=factory))
    graph.add_edge(START, "speak")
    workflow = graph.compile(name="behind")
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        asked = (await request.json())["messages"][-1]["content"]
        token = context.attach(propagate.extract(dict(request.headers)))
        events = ComposerService().execute_workflow(workflow, WorkflowState.from_prompt(asked))
        context.detach(token)

        async def lines():
            async for event in events:
                if event["event"] == "on_custom_event":
                    delta = {"content": event["data"]["content"]}
                    yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\\n\\n"
            yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {}, 'finish_reason': 'stop'}]})}\\n\\n"
            yield "data: [DONE]\\n\\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def tree(spans: list[dict[str, Any]], parent: str | None) -> list[Any]:
    """The tree of nodespan's spans, without phases; the web server creates another span."""
    ours = [span for span in spans if span["scope"] == "nodespan" and "." not in span["name"]]
    found = [span for span in ours if (span["parent_span_id"] or None) == parent]
    return [(span["name"], span["resource"]["service.name"], tree(spans, span["span_id"])) for span in found]


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/openapi.json", trust_env=False).is_success
    except httpx.TransportError:
        return False


async def test_client_node_http_request_server_run_and_model_are_one_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    store = tmp_path / "both.db"
    environment = {**os.environ, "NODESPAN_STORE": str(store)}
    log = (tmp_path / "log").open("w+b")
    server = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), str(port)], env=environment, stdout=log, stderr=log
    )
    monkeypatch.setenv("NODESPAN_STORE", str(store))
    try:
        until = time.monotonic() + PATIENCE_S
        while not is_up(port):
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        profile = ModelProfile(base_url=f"http://127.0.0.1:{port}/v1", name="outer", dialect="openai")
        with nodespan.configure("asking") as telemetry, PipelineFactory({ModelProfileType.Primary: profile}) as factory:
            graph: Any = StateGraph(WorkflowState)
            graph.add_node("ask", PipelineNode(pipeline_factory=factory))
            graph.add_edge(START, "ask")
            events = ComposerService().execute_workflow(graph.compile(name="front"), WorkflowState.from_prompt("a b"))
            trace_id = [event["metadata"]["trace_id"] async for event in events][-1]
            assert telemetry.force_flush(20)

            def spans() -> list[dict[str, Any]]:
                assert telemetry.store is not None
                with StoreReader(telemetry.store) as reader:
                    found = reader.get(trace_id)["spans"]
                return found if any(span["name"] == "invoke_workflow behind" for span in found) else []

            found = wait_for(spans)
    finally:
        server.kill()
        server.wait()
        log.close()
    assert tree(found, None) == snapshot(
        [
            (
                "invoke_workflow front",
                "asking",
                [
                    (
                        "invoke_node ask",
                        "asking",
                        [
                            (
                                "chat outer",
                                "asking",
                                [
                                    (
                                        "invoke_workflow behind",
                                        "serving",
                                        [("invoke_node speak", "serving", [("chat inner", "serving", [])])],
                                    )
                                ],
                            )
                        ],
                    )
                ],
            )
        ]
    )


def vllm_span(traceparent: str) -> Span:
    """The server span of vLLM 0.29.0: name, attributes and their types are those of a published recording."""
    _, trace_id, parent, _ = traceparent.split("-")
    now = time.time_ns()
    span = Span(
        trace_id=bytes.fromhex(trace_id),
        span_id=os.urandom(8),
        parent_span_id=bytes.fromhex(parent),
        name="llm_request",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=now - 50_000_000,
        end_time_unix_nano=now,
    )
    latencies = {"time_in_queue": 0.00005, "time_in_model_prefill": 0.02, "time_in_model_decode": 0.03, "e2e": 0.05}
    for name, seconds in latencies.items():
        span.attributes.add(key=f"gen_ai.latency.{name}").value.double_value = seconds
    for name, tokens in {"prompt_tokens": 4, "completion_tokens": 4}.items():
        span.attributes.add(key=f"gen_ai.usage.{name}").value.int_value = tokens
    span.attributes.add(key="gen_ai.request.id").value.string_value = "chatcmpl-1"
    return span


async def test_the_span_of_vllm_is_below_the_model_call_and_its_tokens_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM does not run here: its answer is played by FakeServer, its span is sent as its exporter sends it."""
    monkeypatch.setenv("NODESPAN_STORE", str(tmp_path / "both.db"))
    with FakeServer("vllm") as vllm, nodespan.configure("asking") as telemetry:
        profile = ModelProfile(base_url=vllm.url, name="outer")
        with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
            graph: Any = StateGraph(WorkflowState)
            graph.add_node("ask", PipelineNode(pipeline_factory=factory))
            graph.add_edge(START, "ask")
            events = ComposerService().execute_workflow(graph.compile(name="front"), WorkflowState.from_prompt("a b"))
            trace_id = [event["metadata"]["trace_id"] async for event in events][-1]
        assert telemetry.force_flush(20)
        assert telemetry.store is not None
        span = vllm_span(vllm.received[0].headers["traceparent"])
        with ViewerThread(telemetry.store) as viewer:
            body = encoded(span, service="vllm").data
            answer = viewer.new_client().post("/v1/traces", content=body, headers={"content-type": PROTOBUF})
            assert answer.status_code == 200
            (run,) = viewer.client.get("/runs.json").json()["traces"]
        with StoreReader(telemetry.store) as reader:
            spans = reader.get(trace_id)["spans"]
    called = next(one for one in spans if one["name"] == "chat outer")
    below = next(one for one in spans if one["name"] == "llm_request")
    assert (below["parent_span_id"], below["kind"]) == (called["span_id"], "SERVER")
    assert below["resource"]["service.name"] == "vllm"
    assert below["attributes"]["gen_ai.latency.time_in_queue"] == 0.00005
    usage = (called["attributes"]["gen_ai.usage.input_tokens"], called["attributes"]["gen_ai.usage.output_tokens"])
    assert (run["tokens_in"], run["tokens_out"]) == usage
