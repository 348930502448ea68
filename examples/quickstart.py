"""The example of the README, on a model file of your own: python examples/quickstart.py model.gguf "Hello"."""

from __future__ import annotations

import asyncio
import sys

from langgraph.graph import START, StateGraph

import nodespan
from nodespan import ComposerService, ModelProfile, ModelProfileType, PipelineFactory, PipelineNode, WorkflowState


async def main(model_path: str, prompt: str) -> None:
    nodespan.configure(service_name="quickstart")
    factory = PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=model_path, n_ctx=2048)})
    graph = StateGraph(WorkflowState)
    graph.add_node("answer", PipelineNode(pipeline_factory=factory))
    graph.add_edge(START, "answer")
    async for event in ComposerService().execute_workflow(graph.compile(), WorkflowState.from_prompt(prompt)):
        if event["name"] == "pipeline_chunk":
            print(event["data"]["content"], end="", flush=True)
    print(f"\nnodespan trace {event['metadata']['trace_id']}")


if len(sys.argv) != 3:
    sys.exit(__doc__)
asyncio.run(main(sys.argv[1], sys.argv[2]))
