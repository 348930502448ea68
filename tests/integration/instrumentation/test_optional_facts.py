"""An optional fact that cannot be read costs itself alone: never a span, and never the program's result."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from pydantic import Field

from nodespan.workflow import ComposerService
from small_graphs import chain

pytestmark = pytest.mark.usefixtures("traced", "traced_langchain")

both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class Lazy:
    """Each attribute that it lacks raises, as those of a proxy whose source is gone."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(f"{name} cannot be loaded")


class LazyNode(Lazy, Runnable[Any, Any]):
    def invoke(self, input, config=None, **kwargs):  # noqa: A002 the name of its base
        return {"n": 1}


def names(exporter):
    return [span.name for span in exporter.get_finished_spans()]


@both
@pytest.mark.parametrize("name", ["node", "agent"])
def test_a_node_whose_attributes_cannot_be_read_has_its_span(name, is_async, exporter):
    graph = chain((name, LazyNode(), {}))
    assert (asyncio.run(graph.ainvoke({"n": 0})) if is_async else graph.invoke({"n": 0}))["n"] == 1
    assert names(exporter) == [f"invoke_node {name}", "invoke_workflow Main"]


class Workflow(Lazy):
    """An object with only the methods that ComposerService requires of a workflow."""

    def get_name(self):
        return "Lazy"

    async def astream_events(self, given, config, **options):
        yield {"event": "on_chain_start", "name": "Lazy", "run_id": "1", "tags": [], "metadata": {}, "data": {}}


async def test_a_workflow_whose_attributes_cannot_be_read_is_executed(tracer_provider, exporter):
    composer = ComposerService(tracer_provider=tracer_provider)
    assert len([event async for event in composer.execute_workflow(Workflow(), {})]) == 1
    assert names(exporter) == ["invoke_workflow Lazy"]


async def test_events_with_values_that_cannot_be_read_have_their_ids(tracer_provider):
    graph = chain(("node", lambda state: {"n": Lazy()}, {}))
    composer = ComposerService(tracer_provider=tracer_provider)
    events = [event async for event in composer.execute_workflow(graph, {"n": 0})]
    assert len(events) > 3
    assert all(event["metadata"]["span_id"] for event in events)


class Uncomparable:
    def __eq__(self, other):
        raise ValueError("ambiguous")

    __hash__ = None  # pyright: ignore[reportAssignmentType]


@both
def test_values_of_a_config_that_cannot_be_compared_cost_no_label(is_async, exporter):
    config = {
        "configurable": {"user_id": Uncomparable(), "other": Uncomparable()},
        "metadata": {"user_id": "u-1", "session_id": "s-1", "other": Uncomparable()},
    }
    graph = chain(("node", lambda state: {"n": 1}, {}))
    asyncio.run(graph.ainvoke({"n": 0}, config)) if is_async else graph.invoke({"n": 0}, config)
    for span in exporter.get_finished_spans():
        assert span.attributes["nodespan.metadata.session_id"] == "s-1"
        assert span.attributes["nodespan.metadata.user_id"] == "u-1"


class Unnamed(type):
    @property
    def __module__(cls):  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError("no module")


class UnnamedError(Exception, metaclass=Unnamed):
    pass


@both
def test_an_error_whose_class_cannot_be_named_passes_unchanged(is_async, exporter):
    def fails(state):
        raise UnnamedError

    graph = chain(fails)
    with pytest.raises(UnnamedError):
        asyncio.run(graph.ainvoke({"n": 0})) if is_async else graph.invoke({"n": 0})
    assert [span.attributes["error.type"] for span in exporter.get_finished_spans()] == ["UnnamedError"] * 2


class Vectors(Embeddings):
    @property
    def model(self):
        raise RuntimeError("the model is not loaded")

    model_path = model

    def embed_documents(self, texts):
        return [Vector() for _ in texts]  # pyright: ignore[reportReturnType]

    def embed_query(self, text):
        return [1.0, 2.0, 3.0]


class Vector:
    """Like an array: it has a length and is no list."""

    def __len__(self):
        return 3


@both
def test_an_embedding_model_whose_name_cannot_be_read_has_its_span(is_async, exporter):
    model = Vectors()
    if is_async:
        asyncio.run(model.aembed_query("a"))
        asyncio.run(model.aembed_documents(["a", "b"]))
    else:
        model.embed_query("a")
        model.embed_documents(["a", "b"])
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["embeddings", "embeddings"]
    assert [span.attributes["gen_ai.embeddings.dimension.count"] for span in spans] == [3, 3]


class Scalar:
    """Like an array without dimensions: it has no length, although its class does."""

    def __len__(self):
        raise TypeError("len() of unsized object")


def test_vectors_without_a_length_are_returned(exporter, monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")

    class Scalars(Embeddings):
        def embed_documents(self, texts):
            return [Scalar()]  # pyright: ignore[reportReturnType]

        def embed_query(self, text):
            return [1.0]

    assert len(Scalars().embed_documents(["a"])) == 1
    assert exporter.get_finished_spans()[0].attributes["nodespan.status"] == "ok"


class Odd(BaseChatModel):
    """Reports metadata of itself and of its answer with unexpected types."""

    known: dict[str, Any] = Field(default_factory=dict)
    metadata_of_answer: dict[str, Any] = Field(default_factory=dict)

    @property
    def _llm_type(self):
        return "odd"

    def _get_ls_params(self, stop=None, **kwargs):
        return self.known  # pyright: ignore[reportReturnType]

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        message = AIMessage("ok", response_metadata={"finish_reason": "stop", **self.metadata_of_answer})
        return ChatResult(generations=[ChatGeneration(message=message)])


@both
@pytest.mark.parametrize(
    "known", [{"ls_provider": ["a"]}, {"ls_provider": {"a": 1}, "ls_model_name": 5}, {"ls_model_name": ["a"]}]
)
def test_a_model_with_unusual_names_has_its_span(known, is_async, exporter):
    model = Odd(known=known)
    assert (asyncio.run(model.ainvoke("hi")) if is_async else model.invoke("hi")).content == "ok"
    assert names(exporter) == ["chat"]


@pytest.mark.parametrize("usage", ["5", 5, ["a"]])
def test_with_unreadable_usage_the_other_attributes_are_recorded(usage, exporter):
    Odd(metadata_of_answer={"token_usage": usage, "id": "a-1"}).invoke("hi")
    [span] = exporter.get_finished_spans()
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["gen_ai.response.id"] == "a-1"


@tool
def fetch(key: str) -> Any:
    """Fetches a row."""
    return Row()


class Row:
    @property
    def status(self):
        raise RuntimeError("detached from its session")


@both
def test_an_unreadable_result_of_a_tool_is_returned(is_async, exporter):
    row = asyncio.run(fetch.ainvoke({"key": "a"})) if is_async else fetch.invoke({"key": "a"})
    assert isinstance(row, Row)
    assert names(exporter) == ["execute_tool fetch"]
    assert exporter.get_finished_spans()[0].attributes["nodespan.status"] == "ok"
