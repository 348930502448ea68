"""The llama.cpp models of langchain-community on the real model: one span per call, with the exact counts."""

from __future__ import annotations

import asyncio

import pytest

from measured import Measured
from nodespan.instrumentation import instrument, uninstrument

pytestmark = pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset")

QUESTION = "Name three colours."


@pytest.fixture(scope="module")
def chat(smollm2):
    from langchain_community.chat_models import ChatLlamaCpp

    model = ChatLlamaCpp(
        model_path=str(smollm2), n_ctx=512, n_batch=256, max_tokens=8, temperature=0.0, seed=1, verbose=False
    )
    yield model
    model.client.close()


@pytest.fixture(params=[False, True], ids=["langchain", "with llama_cpp"])
def traced(request, tracer_provider):
    instrument(tracer_provider=tracer_provider, langgraph=False, llama_cpp=request.param)
    yield
    uninstrument()


async def _astream(model):
    return [piece async for piece in model.astream(QUESTION)]


WAYS = {
    "invoke": lambda model: model.invoke(QUESTION),
    "ainvoke": lambda model: asyncio.run(model.ainvoke(QUESTION)),
    "stream": lambda model: list(model.stream(QUESTION)),
    "astream": lambda model: asyncio.run(_astream(model)),
}


def model_spans(exporter):
    return [span for span in exporter.get_finished_spans() if "gen_ai.operation.name" in span.attributes]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("way", WAYS)
def test_chat_llama_cpp_is_one_model_span(chat, exporter, smollm2, way):
    WAYS[way](chat)
    [span] = model_spans(exporter)
    assert span.name == f"chat {smollm2.stem}"
    attributes = dict(span.attributes)
    assert attributes["gen_ai.provider.name"] == "llama_cpp"
    assert attributes["gen_ai.request.model"] == smollm2.stem
    assert attributes["gen_ai.request.temperature"] == 0.0
    assert attributes["gen_ai.request.max_tokens"] == 8
    assert attributes["gen_ai.request.seed"] == 1
    assert attributes["gen_ai.response.finish_reasons"] == ("length",)


@pytest.mark.parametrize("way", WAYS)
def test_under_both_instrumentations_the_one_span_has_the_engine_s_counts_and_phases(
    chat, exporter, tracer_provider, way
):
    expected = chat.client.create_chat_completion(
        [{"role": "user", "content": QUESTION}], max_tokens=8, temperature=0.0, seed=1
    )["usage"]
    measured = Measured()
    instrument(tracer_provider=tracer_provider, meter_provider=measured.provider, langgraph=False)
    try:
        WAYS[way](chat)
    finally:
        uninstrument()
    [span] = model_spans(exporter)
    usage = [span.attributes[f"gen_ai.usage.{kind}_tokens"] for kind in ("input", "output")]
    assert usage == [expected["prompt_tokens"], expected["completion_tokens"]]
    below = [one.name for one in exporter.get_finished_spans() if one is not span]
    assert below == ["llama_cpp.prefill", "llama_cpp.decode"]
    tokens = measured.of("gen_ai.client.token.usage", "gen_ai.token.type")
    assert tokens == {"input": (usage[0], 1), "output": (usage[1], 1)}
    [(_, calls)] = measured.of("gen_ai.client.operation.duration").values()
    assert calls == 1


@pytest.mark.usefixtures("traced")
def test_its_usage_equals_that_of_llama_cpp(chat, exporter):
    answer = chat.model_copy(update={"streaming": False}).invoke(QUESTION)
    usage = answer.response_metadata["token_usage"]
    [span] = model_spans(exporter)
    assert span.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert span.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 8


@pytest.mark.usefixtures("traced")
def test_llama_cpp_as_an_llm_is_one_model_span(exporter, smollm2):
    from langchain_community.llms import LlamaCpp

    model = LlamaCpp(model_path=str(smollm2), n_ctx=512, max_tokens=4, temperature=0.0, seed=1, verbose=False)
    model.invoke("Once upon")
    list(model.stream("Once upon"))
    assert [span.name for span in model_spans(exporter)] == [f"text_completion {smollm2.stem}"] * 2
    model.client.close()
