"""Model calls inside a model call: each called model has a span, and its usage is counted once."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import openai
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableParallel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from measured import Measured
from nodespan import GenerationRequest, ModelProfile, ModelProfileType, PipelineFactory, Runner, semconv
from nodespan.instrumentation import instrument, uninstrument
from nodespan.testing import FakeServer, span_tree
from talker import Talker

QUESTION: Any = [{"role": "user", "content": "a b c d"}]
STREAMED: Any = {"stream": True, "stream_options": {"include_usage": True}}
USAGE = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")


@pytest.fixture(autouse=True)
def traced(tracer_provider, measured):
    instrument(tracer_provider=tracer_provider, meter_provider=measured.provider, langgraph=False)
    yield
    uninstrument()


class Router(BaseChatModel):
    """Calls the model as ``ask`` does, and returns its own message or the received one."""

    model_name: str = "router"
    ask: Any
    keeps_message: bool = False

    @property
    def _llm_type(self) -> str:
        return "router"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        answer = self.ask(self, messages)
        message = answer if self.keeps_message else AIMessage(answer.content)
        return ChatResult(generations=[ChatGeneration(message=message)])


def falls_back(_, messages):
    try:
        return Talker(model_name="cheap", error=RuntimeError("rate limit")).invoke(messages)
    except RuntimeError:
        return Talker(model_name="big").invoke(messages)


async def _astream(model):
    return [piece async for piece in model.astream("hi")]


WAYS = {
    "invoke": lambda model: model.invoke("hi"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("hi")),
    "stream": lambda model: list(model.stream("hi")),
    "astream": lambda model: asyncio.run(_astream(model)),
    "batch": lambda model: model.batch(["hi"]),
    "generate": lambda model: model.generate([[HumanMessage("hi")]]),
}


def tree(exporter):
    return span_tree(exporter, *USAGE, "nodespan.status")


def node(name, *children, usage: tuple[int, int] | None = (3, 2), status="ok"):
    attributes = {"nodespan.status": status, **(dict(zip(USAGE, usage, strict=True)) if usage else {})}
    return {"name": name, "attributes": attributes, **({"children": list(children)} if children else {})}


def tokens(measured: Measured) -> dict[Any, Any]:
    used = measured.of(semconv.TOKEN_USAGE, semconv.REQUEST_MODEL, semconv.TOKEN_TYPE)
    return {key: total for key, (total, _) in used.items()}


@pytest.mark.parametrize("keeps_message", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_fallback_inside_of_a_model_has_a_span_for_each_attempt_and_counts_once(
    exporter, measured, way, keeps_message
):
    WAYS[way](Router(ask=falls_back, keeps_message=keeps_message))
    failed = {**node("chat cheap", usage=None, status="error"), "status": "ERROR", "events": ["exception"]}
    assert tree(exporter) == [node("chat router", failed, node("chat big"), usage=None)]
    assert tokens(measured) == {("big", "input"): 3, ("big", "output"): 2}


ASKS = {
    "batch": lambda _, messages: Talker().batch([messages, messages])[0],
    "parallel": lambda _, messages: RunnableParallel(a=Talker(), b=Talker()).invoke(messages)["a"],
    "generate": lambda _, messages: Talker().generate([messages, messages]).generations[0][0].message,
    "stream": lambda _, messages: [list(Talker().stream(messages)), Talker().invoke(messages)][1],
    "routers": lambda _, messages: Router(ask=lambda _, m: Talker().batch([m, m])[1], keeps_message=True).invoke(
        messages
    ),
}


@pytest.mark.parametrize("keeps_message", [False, True])
@pytest.mark.parametrize("ask", ASKS)
def test_several_calls_inside_of_a_call_are_all_counted_and_none_twice(exporter, measured, ask, keeps_message):
    Router(ask=ASKS[ask], keeps_message=keeps_message).invoke("hi")
    assert [span.name for span in exporter.get_finished_spans()].count("chat talker-1") == 2
    assert tokens(measured) == {("talker-1", "input"): 6, ("talker-1", "output"): 4}
    spent = [span.attributes[USAGE[1]] for span in exporter.get_finished_spans() if USAGE[1] in span.attributes]
    assert sum(spent) == 4


def test_a_model_that_reports_the_sum_of_its_inner_calls_counts_it_once(exporter, measured):
    def ask(_, messages):
        first, second = Talker().invoke(messages), Talker().invoke(messages)
        usage = {"input_tokens": 6, "output_tokens": 4, "total_tokens": 10}
        return AIMessage(first.content + second.content, usage_metadata=usage)

    Router(ask=ask, keeps_message=True).invoke("hi")
    assert tree(exporter) == [node("chat router", node("chat talker-1"), node("chat talker-1"), usage=None)]
    assert tokens(measured) == {("talker-1", "input"): 6, ("talker-1", "output"): 4}


def test_an_outer_call_with_different_usage_keeps_it(exporter, measured):
    def ask(_, messages):
        Talker(model_name="guard").invoke(messages)
        return AIMessage("ok", usage_metadata={"input_tokens": 9, "output_tokens": 8, "total_tokens": 17})

    Router(ask=ask, keeps_message=True).invoke("hi")
    assert tree(exporter) == [node("chat router", node("chat guard"), usage=(9, 8))]
    assert tokens(measured) == {
        ("guard", "input"): 3, ("guard", "output"): 2, ("router", "input"): 9, ("router", "output"): 8,
    }  # fmt: skip


def test_a_recursive_model_has_two_calls(exporter, measured):
    seen: list[int] = []

    def ask(model, messages):
        seen.append(1)
        return model.invoke(messages) if len(seen) == 1 else Talker().invoke(messages)

    Router(ask=ask).invoke("hi")
    assert tree(exporter) == [
        node("chat router", node("chat router", node("chat talker-1"), usage=None), usage=None),
    ]
    assert tokens(measured) == {("talker-1", "input"): 3, ("talker-1", "output"): 2}


def test_an_embedding_inside_of_a_chat_has_a_span(exporter):
    def ask(_, messages):
        DeterministicFakeEmbedding(size=2).embed_query("x")
        return AIMessage("ok")

    Router(ask=ask).invoke("hi")
    assert tree(exporter) == [node("chat router", node("embeddings", usage=None), usage=None)]


def test_an_embedding_model_whose_methods_call_each_other_has_one_span(exporter):
    class Mine(DeterministicFakeEmbedding):
        def embed_documents(self, texts):
            return [self.embed_query(text) for text in texts]

        async def aembed_documents(self, texts):
            return self.embed_documents(texts)

    Mine(size=2).embed_documents(["a", "b"])
    asyncio.run(Mine(size=2).aembed_documents(["a", "b"]))
    assert [span.name for span in exporter.get_finished_spans()] == ["embeddings", "embeddings"]


def test_two_llama_cpp_models_inside_of_a_call_are_both_counted(exporter, measured, smollm2, tmp_path):
    import llama_cpp

    other = tmp_path / "other.gguf"
    other.symlink_to(smollm2)
    question: Any = [{"role": "user", "content": "hi"}]
    used: list[Any] = []

    def ask(_, messages):
        for path in (smollm2, other):
            with closing(llama_cpp.Llama(str(path), n_ctx=128, verbose=False)) as llama:
                answer: Any = llama.create_chat_completion(question, max_tokens=2, seed=1)
                used.append(answer["usage"]["prompt_tokens"])
        return AIMessage(answer["choices"][0]["message"]["content"])

    Router(ask=ask).invoke("hi")
    other_call, outer = (span for span in exporter.get_finished_spans() if span.name.startswith("chat"))
    assert (other_call.name, outer.name) == ("chat other", "chat router")
    assert outer.attributes["gen_ai.response.model"] == smollm2.stem  # the same call, in llama.cpp
    counted = tokens(measured)
    assert [counted[name, "input"] for name in ("router", "other")] == used


def test_calls_of_the_openai_package_for_several_models_are_all_counted(exporter, measured):
    with FakeServer("llama-server") as server, openai.OpenAI(base_url=server.url, api_key="k") as client:

        def ask(_, messages):
            for model in ("cheap", "big", "big"):
                list(client.chat.completions.create(model=model, messages=QUESTION, **STREAMED))
            return AIMessage("ok")

        Router(ask=ask, model_name="big").invoke("hi")
    [root] = tree(exporter)
    assert root["name"] == "chat big"
    assert [child["name"] for child in root["children"]].count("chat cheap") == 1
    assert [child["name"] for child in root["children"]].count("chat big") == 0  # one call in two libraries
    counted = tokens(measured)
    assert counted["big", "output"] == 2 * counted["cheap", "output"] > 0
    assert root["attributes"][USAGE[1]] == counted["big", "output"]


def test_an_engine_s_counts_are_in_the_metrics_of_a_call_that_is_not_sampled(measured):
    uninstrument()
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    instrument(tracer_provider=unsampled, meter_provider=measured.provider, langgraph=False)
    with FakeServer("llama-server") as server, openai.OpenAI(base_url=server.url, api_key="k") as client:

        def ask(_, messages):
            list(client.chat.completions.create(model="big", messages=QUESTION, **STREAMED))
            return AIMessage("ok")

        Router(ask=ask, model_name="big").invoke("hi")
    assert tokens(measured) == {("big", "input"): 4, ("big", "output"): 4}


class OnLangChain:
    """A custom pipeline that calls a LangChain model."""

    def __init__(self, profile: ModelProfile) -> None:
        del profile

    def generate(self, request, cancellation, result):
        answer = Talker().invoke(request.prompt)
        result.input_tokens, result.output_tokens = 3, 2
        yield answer.content

    def close(self):
        pass


class OnLlama:
    """A pipeline of the user's with a ``Llama`` of its own."""

    def __init__(self, profile: ModelProfile) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(str(profile.model_path), n_ctx=128, verbose=False)

    def generate(self, request, cancellation, result):
        answer: Any = self._llama.create_completion(request.prompt, max_tokens=2, seed=1)
        yield answer["choices"][0]["text"]

    def close(self):
        self._llama.close()


@pytest.mark.parametrize("pipeline", [OnLangChain, OnLlama])
def test_a_library_that_a_pipeline_uses_has_its_own_span_and_counts_once(
    exporter, measured, tracer_provider, smollm2, pipeline
):
    profile = ModelProfile(model_path=smollm2, name="mine", sampling={"max_tokens": 2})
    with PipelineFactory({ModelProfileType.Primary: profile}, create=pipeline) as factory:
        runner = Runner(factory, tracer_provider=tracer_provider, meter_provider=measured.provider)
        list(runner.stream_pipeline(GenerationRequest(prompt="Once upon")))
    [root] = tree(exporter)
    [inner] = [child for child in root["children"] if "pipeline" not in child["name"]]
    assert USAGE[1] in inner["attributes"]
    assert USAGE[1] not in root["attributes"]
    assert sum(total for (_, kind), total in tokens(measured).items() if kind == "output") == 2
