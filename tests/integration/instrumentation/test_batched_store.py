"""Embeddings of a LangGraph store that works in batches: each is below the run that requested it.

The background task of such a store has the context of the request that made the store.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypedDict

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langgraph.graph import START, StateGraph
from langgraph.store.base.batch import AsyncBatchedBaseStore
from langgraph.store.memory import InMemoryStore
from opentelemetry import context as context_api

from nodespan.instrumentation import instrument, uninstrument

pytest.importorskip("numpy", reason="LangChain and LangGraph do not require it")


class Sync(DeterministicFakeEmbedding):
    """Embeds in a thread of the executor."""


class Async(Embeddings):
    """Embeds in the background task itself; one method calls the other."""

    def embed_documents(self, texts):
        raise NotImplementedError

    def embed_query(self, text):
        raise NotImplementedError

    async def aembed_documents(self, texts):
        await asyncio.sleep(0.001)  # longer than a step of the loop, as with a server
        return [[1.0, float(len(text))] for text in texts]

    async def aembed_query(self, text):
        return (await self.aembed_documents([text]))[0]


class Batched(AsyncBatchedBaseStore):
    def __init__(self, embeddings):
        super().__init__()
        self._store = InMemoryStore(index={"embed": embeddings, "dims": 2})

    def batch(self, ops):
        return self._store.batch(ops)

    async def abatch(self, ops):
        return await self._store.abatch(ops)


class State(TypedDict):
    x: int


@pytest.fixture(autouse=True)
def traced(tracer_provider):
    instrument(tracer_provider=tracer_provider)
    yield
    uninstrument()


@pytest.mark.parametrize("embeddings", [Sync(size=2), Async()], ids=["sync", "async"])
@pytest.mark.parametrize("at_once", [False, True])
def test_embeddings_are_under_their_own_run(exporter, embeddings, at_once):
    async def run():
        stores: list[Batched] = []

        async def node(state):
            if not stores:
                stores.append(Batched(embeddings))
            await asyncio.sleep(0.001 * state["x"])  # one call after the other
            await stores[0].aput(("a",), str(state["x"]), {"text": f"value {state['x']}"})
            await stores[0].asearch(("a",), query=f"query {state['x']}")
            return {"x": 0}

        graph = StateGraph(State).add_node("n", node).add_edge(START, "n").compile()
        runs = [lambda x=x: graph.ainvoke({"x": x}) for x in range(1, 5)]
        if at_once:
            await asyncio.gather(*(run() for run in runs))
        else:
            for run in runs:
                await run()

    asyncio.run(run())
    spans = exporter.get_finished_spans()
    nodes = {span.context.span_id: span for span in spans if span.name == "invoke_node n"}
    calls = [span for span in spans if span.name == "embeddings"]
    assert len({span.context.trace_id for span in spans}) == 4
    assert 4 < len(calls) <= 8  # values that are put in one tick are embedded together
    for call in calls:
        node = nodes[call.parent.span_id]
        assert node.start_time <= call.start_time
        assert call.end_time <= node.end_time
    if not at_once:
        assert len(calls) == 8
        assert sorted(call.parent.span_id for call in calls) == sorted([*nodes, *nodes])


class OddContext:
    """A value of the program's in the context, which cannot be compared."""

    def __eq__(self, other):
        raise ValueError("ambiguous")

    __hash__ = None  # pyright: ignore[reportAssignmentType]


@dataclass
class DataStore(AsyncBatchedBaseStore):
    """A data class, which is compared by its fields and cannot be hashed."""

    name: str = "s"

    def __post_init__(self):
        super().__init__()
        self.inner = InMemoryStore()

    def batch(self, ops):
        return self.inner.batch(ops)

    async def abatch(self, ops):
        await asyncio.sleep(0.01)  # other calls arrive meanwhile
        return await self.inner.abatch(ops)


async def test_a_store_and_a_context_that_cannot_be_compared_work():
    store = DataStore()

    async def asks(number):
        token = context_api.attach(context_api.set_value("mine", OddContext()))
        await store.aput(("a",), str(number), {"n": number})
        found = await store.asearch(("a",))
        context_api.detach(token)
        return len(found)

    assert await asyncio.gather(asks(1), asks(2)) == [2, 2]
