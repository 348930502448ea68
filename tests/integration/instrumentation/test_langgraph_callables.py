"""A wrapped method is the same kind of callable as its original, for everything that inspects it."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from typing import get_type_hints

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.utils import is_async_callable, is_async_generator

from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation.langchain import _seam as langchain_seam
from nodespan.instrumentation.langgraph import _seam as langgraph_seam
from small_graphs import chain
from talker import Talker

KINDS = {
    "function": inspect.isfunction,
    "generator function": inspect.isgeneratorfunction,
    "async generator function": inspect.isasyncgenfunction,
    "coroutine function": inspect.iscoroutinefunction,
    "LangChain's async callable": is_async_callable,
    "LangChain's async generator": is_async_generator,
    "routine": inspect.isroutine,
}


class OddEmbedding(DeterministicFakeEmbedding):
    """An asynchronous method that is a plain function returning an awaitable."""

    def aembed_query(self, text):
        return super().aembed_query(text)


def _targets():
    seams = [
        *langgraph_seam.SEAMS._seams,
        *langgraph_seam.REMOTE_EVENTS._seams,
        *langchain_seam.SEAMS._seams,
        *langchain_seam.EVENT_STREAMS._seams,
    ]
    for library in ("llama_cpp", "openai"):
        module = importlib.import_module(f"nodespan.instrumentation.{library}._seam")
        seams += module.SEAMS._seams if importlib.util.find_spec(library) else []
    if importlib.util.find_spec("openai"):
        seams += importlib.import_module("nodespan.instrumentation.openai._seam").PARSING._seams
    for seam in seams:
        module = importlib.import_module(seam.module)
        yield getattr(module, seam.class_name) if seam.class_name else module, seam.name
    for kind in (DeterministicFakeEmbedding, Embeddings, OddEmbedding):
        for name in ("embed_documents", "embed_query", "aembed_documents", "aembed_query"):
            yield kind, name


def _description(target, name):
    function = getattr(target, name, None)
    if function is None:  # not in this version of the library
        return None
    return {
        **{kind: test(function) for kind, test in KINDS.items()},
        "signature": inspect.signature(function),
        "source": inspect.getsource(function),
        # Those of the openai package are wrappers themselves, so that theirs is of no use.
        "arguments": None if target.__name__.endswith("Completions") else inspect.getfullargspec(function),
        "names": (function.__name__, function.__qualname__, function.__module__, function.__doc__),
        "annotations": function.__annotations__,
        "abstract": getattr(function, "__isabstractmethod__", False),
    }


@pytest.fixture
def switch(tracer_provider):
    yield lambda: instrument(tracer_provider=tracer_provider)
    uninstrument()


def test_a_wrapped_method_is_the_same_kind_of_callable_as_its_original(switch):
    names = [f"{target.__name__}.{name}" for target, name in _targets()]
    before = [_description(target, name) for target, name in _targets()]
    switch()
    after = [_description(target, name) for target, name in _targets()]
    for name, original, wrapped in zip(names, before, after, strict=True):
        assert wrapped == original, name
    assert len([name for name in names if name]) > 40


class Callable:
    """A callable that is no function, so that a class does not bind it."""

    def __call__(self, text):
        return [float(len(text))]


def test_methods_of_embedding_models_that_are_not_functions_return_the_same_results(switch):
    class Unusual(Embeddings):
        @staticmethod
        def embed_documents(texts):  # pyright: ignore[reportIncompatibleMethodOverride]
            return [[float(len(text))] for text in texts]

        embed_query = Callable()  # pyright: ignore[reportAssignmentType]

    def results():
        model = Unusual()
        return model.embed_documents(["a"]), model.embed_query("ab"), asyncio.run(model.aembed_query("ab"))

    plain = results()
    assert plain == ([[1.0]], [2.0], [2.0])
    switch()
    assert results() == plain


def step(state):
    return {"seen": ["inner"]}


def test_the_bound_stream_of_a_graph_is_a_node_in_another_graph(switch, exporter):
    inner = chain(step, name="Inner")

    def results():
        through_astream = chain(("inner", inner.astream, {}))
        return (
            asyncio.run(through_astream.ainvoke({"seen": []})),
            asyncio.run(RunnableLambda(inner.ainvoke).ainvoke({"seen": []})),
            is_async_generator(inner.astream),
            inspect.isgeneratorfunction(inner.stream),
        )

    plain = results()
    assert plain[0] == {"seen": ["inner"]}
    switch()
    assert results() == plain
    assert {span.name for span in exporter.get_finished_spans()} >= {"invoke_workflow Inner", "invoke_node step"}


def test_the_bound_stream_of_a_model_is_an_async_generator_function(switch):
    async def texts():
        return [piece.content async for piece in RunnableLambda(Talker().astream).astream("hi")]

    plain = asyncio.run(texts())
    switch()
    assert asyncio.run(texts()) == plain


def test_type_hints_of_wrapped_methods_resolve(switch):
    from langgraph.pregel import Pregel

    switch()
    assert inspect.signature(Pregel.stream).parameters["input"].name == "input"
    assert "return" in get_type_hints(Embeddings.embed_query)
