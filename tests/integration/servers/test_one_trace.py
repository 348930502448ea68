"""One trace across two processes: a graph here, whose model is a graph behind FastAPI there, in one store."""

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

import nodespan
from llama_server import PATIENCE_S, free_port
from nodespan import ComposerService, ModelProfile, ModelProfileType, PipelineFactory, PipelineNode, WorkflowState
from nodespan.store import StoreReader
from pipelines import wait_for

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
    """Of nodespan's spans; the web server makes one of its own beside them. Phases are left out."""
    ours = [span for span in spans if span["scope"] == "nodespan" and "." not in span["name"]]
    found = [span for span in ours if (span["parent_span_id"] or None) == parent]
    return [(span["name"], span["resource"]["service.name"], tree(spans, span["span_id"])) for span in found]


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/openapi.json", trust_env=False).is_success
    except httpx.TransportError:
        return False


async def test_client_node_http_server_run_and_its_model_are_one_tree(
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
