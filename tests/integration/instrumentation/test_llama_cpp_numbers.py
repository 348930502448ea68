"""Spans of llama-cpp-python: which there are, and that their numbers are llama-cpp-python's own."""

from __future__ import annotations

from contextlib import closing

import pytest
from inline_snapshot import snapshot

import llama_cpp
from llama_calls import the_call
from llama_cpp_cases import EACH_CASE, N_BATCH, N_CTX, ONE_THREAD, STORY, bare, cached_by_the_rule, prompt_of
from nodespan.instrumentation import instrument, uninstrument
from nodespan.instrumentation.llama_cpp import LlamaCppInstrumentor
from nodespan.runner import PipelineFactory, Runner
from nodespan.testing import span_tree
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import chat, raw

NUMBERS = ("gen_ai.usage.*", "nodespan.evaluated_tokens", "gen_ai.response.finish_reasons", "nodespan.status")


@pytest.fixture
def llama(loaded, traced_llama_cpp):
    """A traced model with nothing in its cache."""
    loaded.reset()
    return loaded


def numbers(span):
    attributes = span.attributes
    return {
        "input": attributes["gen_ai.usage.input_tokens"],
        "output": attributes["gen_ai.usage.output_tokens"],
        "cached": attributes["gen_ai.usage.cache_read.input_tokens"],
        "finish": attributes["gen_ai.response.finish_reasons"],
    }


def evaluated(exporter):
    return {
        span.name: span.attributes["nodespan.evaluated_tokens"]
        for span in exporter.get_finished_spans()
        if span.name.startswith("llama_cpp.")
    }


@EACH_CASE
def test_the_numbers_are_those_of_the_usage_streamed_or_not(llama, exporter, case):
    *before, last = case.requests
    for request in before:
        bare(llama, request, stream=False)
    had = llama.input_ids[: llama.n_tokens].tolist()
    exporter.clear()
    answer = bare(llama, last, stream=False)
    usage, whole, children = answer["usage"], numbers(the_call(exporter)), evaluated(exporter)

    llama.reset()
    for request in before:
        bare(llama, request, stream=False)
    exporter.clear()
    list(bare(llama, last, stream=True))
    assert numbers(the_call(exporter)) == whole
    assert evaluated(exporter) == children

    prompt = prompt_of(llama, last)
    cached = cached_by_the_rule(llama, had, prompt)
    assert whole == {
        "input": usage["prompt_tokens"],
        "output": usage["completion_tokens"],
        "cached": cached,
        "finish": (answer["choices"][0]["finish_reason"],),
    }
    assert children["llama_cpp.prefill"] == len(prompt) - cached


def _call(llama):
    return llama(STORY, max_tokens=3, seed=5)


def _completion(llama):
    return llama.create_completion(STORY, max_tokens=3, seed=5)


def _chat(llama):
    return llama.create_chat_completion([{"role": "user", "content": "What is the sea?"}], max_tokens=3, seed=5)


def _streamed(llama):
    return list(llama.create_completion(STORY, max_tokens=3, seed=5, stream=True))


def _streamed_call(llama):
    return list(llama(STORY, max_tokens=3, seed=5, stream=True))


def _streamed_chat(llama):
    messages = [{"role": "user", "content": "What is the sea?"}]
    return list(llama.create_chat_completion(messages, max_tokens=3, seed=5, stream=True))


@pytest.mark.parametrize("ask", [_call, _completion, _streamed, _streamed_call], ids=lambda ask: ask.__name__)
def test_a_completion_has_one_span_for_every_way_to_call_it(llama, exporter, ask):
    ask(llama)
    assert span_tree(exporter, *NUMBERS) == snapshot(
        [
            {
                "name": "text_completion SmolLM2-135M-Instruct.Q4_1",
                "attributes": {
                    "gen_ai.usage.input_tokens": 19,
                    "gen_ai.usage.output_tokens": 3,
                    "gen_ai.usage.cache_read.input_tokens": 0,
                    "gen_ai.response.finish_reasons": ("length",),
                    "nodespan.status": "ok",
                },
                "children": [
                    {"name": "llama_cpp.prefill", "attributes": {"nodespan.evaluated_tokens": 19}},
                    {"name": "llama_cpp.decode", "attributes": {"nodespan.evaluated_tokens": 2}},
                ],
            }
        ]
    )


@pytest.mark.parametrize("ask", [_chat, _streamed_chat], ids=lambda ask: ask.__name__)
def test_a_chat_completion_has_one_span_for_every_way_to_call_it(llama, exporter, ask):
    ask(llama)
    assert span_tree(exporter, *NUMBERS) == snapshot(
        [
            {
                "name": "chat SmolLM2-135M-Instruct.Q4_1",
                "attributes": {
                    "gen_ai.usage.input_tokens": 35,
                    "gen_ai.usage.output_tokens": 3,
                    "gen_ai.usage.cache_read.input_tokens": 0,
                    "gen_ai.response.finish_reasons": ("length",),
                    "nodespan.status": "ok",
                },
                "children": [
                    {"name": "llama_cpp.prefill", "attributes": {"nodespan.evaluated_tokens": 35}},
                    {"name": "llama_cpp.decode", "attributes": {"nodespan.evaluated_tokens": 2}},
                ],
            }
        ]
    )


def test_generate_called_directly_has_a_span(llama, exporter):
    prompt = llama.tokenize(STORY.encode())
    tokens = llama.generate(prompt, temp=0.0)
    taken = [next(tokens) for _ in range(4)]
    assert len(taken) == 4
    assert exporter.get_finished_spans() == ()
    tokens.close()
    assert span_tree(exporter, *NUMBERS, "gen_ai.request.*") == snapshot(
        [
            {
                "name": "text_completion SmolLM2-135M-Instruct.Q4_1",
                "attributes": {
                    "gen_ai.request.model": "SmolLM2-135M-Instruct.Q4_1",
                    "gen_ai.request.temperature": 0.0,
                    "gen_ai.request.stream": True,
                    "gen_ai.usage.input_tokens": 19,
                    "gen_ai.usage.output_tokens": 4,
                    "gen_ai.usage.cache_read.input_tokens": 0,
                    "gen_ai.response.finish_reasons": ("cancelled",),
                    "nodespan.status": "cancelled",
                },
                "children": [
                    {"name": "llama_cpp.prefill", "attributes": {"nodespan.evaluated_tokens": 19}},
                    {"name": "llama_cpp.decode", "attributes": {"nodespan.evaluated_tokens": 3}},
                ],
            }
        ]
    )


def test_generate_without_reset_evaluates_all_given_tokens(llama, exporter):
    for prompt in (STORY, " the"):
        with closing(llama.generate(llama.tokenize(prompt.encode()), reset=False)) as tokens:
            next(tokens)
    first, second = [span for span in exporter.get_finished_spans() if span.name.startswith("text_completion")]
    assert (first.attributes["gen_ai.usage.input_tokens"], numbers(second)["input"]) == (19, 1)
    assert numbers(first)["cached"] == numbers(second)["cached"] == 0


def test_values_sent_to_generate_reach_it(smollm2, tracer_provider, exporter):
    """As a speculative decoder: sent tokens are evaluated together with the last token."""

    def take(llama, prompt, draft):
        llama.reset()
        with closing(llama.generate(prompt, temp=0.0)) as tokens:
            return [next(tokens), tokens.send(draft)], llama.n_tokens

    with closing(llama_cpp.Llama(str(smollm2), n_ctx=64, logits_all=True, verbose=False)) as llama:
        prompt = llama.tokenize(STORY.encode())
        (_, second), evaluated_alone = take(llama, prompt, None)
        bare_tokens, evaluated_with_draft = take(llama, prompt, [second])
        assert evaluated_with_draft == evaluated_alone + 1
        instrument(tracer_provider=tracer_provider, langgraph=False, langchain=False)
        try:
            assert take(llama, prompt, [second]) == (bare_tokens, evaluated_with_draft)
        finally:
            uninstrument()
    assert numbers(the_call(exporter))["output"] == 2


@pytest.mark.parametrize("pieces_read", [1, 2, 7])
def test_closed_early_the_count_is_that_of_the_tokens_sampled(llama, exporter, pieces_read):
    stream = llama.create_completion(STORY, seed=5, max_tokens=100, stream=True)
    for _ in range(pieces_read):
        next(stream)
    stream.close()
    assert numbers(the_call(exporter)) == {"input": 19, "output": pieces_read, "cached": 0, "finish": ("cancelled",)}
    assert evaluated(exporter) == {"llama_cpp.prefill": 19} | (
        {"llama_cpp.decode": pieces_read - 1} if pieces_read > 1 else {}
    )


def test_a_stream_abandoned_after_its_finish_reason_is_not_cancelled(llama, exporter):
    stream = llama.create_completion(STORY, seed=5, max_tokens=2, stream=True)
    while next(stream)["choices"][0]["finish_reason"] is None:
        pass
    stream.close()
    assert numbers(the_call(exporter))["finish"] == ("length",)
    assert the_call(exporter).attributes["nodespan.status"] == "ok"


def test_requested_values_are_on_the_span_and_defaults_are_not(llama, exporter):
    llama.create_completion(STORY, None, 2, 0.5, stop=" the", seed=7, top_k=3)
    attributes = {k: v for k, v in the_call(exporter).attributes.items() if k.startswith("gen_ai.request.")}
    assert attributes == snapshot(
        {
            "gen_ai.request.model": "SmolLM2-135M-Instruct.Q4_1",
            "gen_ai.request.max_tokens": 2,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.top_k": 3,
            "gen_ai.request.seed": 7,
            "gen_ai.request.stop_sequences": (" the",),
            "gen_ai.request.stream": False,
        }
    )


def test_a_handler_that_calls_the_model_twice_makes_one_span_with_the_sum(llama, exporter):
    def handler(*, llama, messages, **_):
        for message in messages:
            answer = llama.create_completion(message["content"], max_tokens=3, seed=5)
        return answer

    llama.chat_handler = handler
    try:
        llama.create_chat_completion([{"role": "user", "content": STORY}, {"role": "user", "content": "An apple is"}])
    finally:
        llama.chat_handler = None
    assert numbers(the_call(exporter)) == {"input": 19 + 3, "output": 3 + 3, "cached": 0, "finish": ("length",)}
    names = [child["name"] for child in span_tree(exporter)[0]["children"]]
    assert names == ["llama_cpp.prefill", "llama_cpp.decode"] * 2


@pytest.fixture(scope="module", params=[False, True], ids=["quiet", "verbose"])
def embedder(request, smollm2):
    """With ``verbose`` llama-cpp-python resets the counters from which the numbers are read."""
    with closing(llama_cpp.Llama(str(smollm2), n_ctx=64, embedding=True, verbose=request.param)) as llama:
        llama.embed("something before")
        yield llama


def test_an_embedding_has_one_span_with_the_count_of_its_tokens(embedder, exporter, traced_llama_cpp):
    usage = embedder.create_embedding(["Once upon a time", "the sea"])["usage"]
    assert usage["prompt_tokens"] == 6
    assert span_tree(exporter, *NUMBERS, "gen_ai.embeddings.*") == snapshot(
        [
            {
                "name": "embeddings SmolLM2-135M-Instruct.Q4_1",
                "attributes": {
                    "gen_ai.embeddings.dimension.count": 576,
                    "gen_ai.usage.input_tokens": 6,
                    "nodespan.status": "ok",
                },
                "children": [{"name": "llama_cpp.prefill", "attributes": {"nodespan.evaluated_tokens": 6}}],
            }
        ]
    )


def test_embed_returns_the_requested_values_and_its_span_has_the_count(embedder, exporter, traced_llama_cpp):
    vector = embedder.embed("Once upon a time")
    assert embedder.embed("Once upon a time", return_count=True) == (vector, 4)
    assert embedder.embed("Once upon a time", False, True, True) == (vector, 4)
    spans = [span for span in exporter.get_finished_spans() if span.name.startswith("embeddings")]
    assert [span.attributes["gen_ai.usage.input_tokens"] for span in spans] == [4, 4, 4]


def test_a_pipelines_call_is_measured_once_whenever_it_was_loaded(smollm2, tracer_provider, exporter, traced_llama_cpp):
    profile = ModelProfile(model_path=smollm2, n_ctx=N_CTX, options=ONE_THREAD)
    chatted, completed = chat("What is the sea?", max_tokens=3, seed=5), raw(STORY, max_tokens=3, seed=5)

    def ask(runner):
        exporter.clear()
        list(runner.stream_pipeline(chatted))
        list(runner.stream_pipeline(completed))
        names = [
            (span["name"].split()[0], [child["name"] for child in span["children"]]) for span in span_tree(exporter)
        ]
        return names, [numbers(span) for span in exporter.get_finished_spans() if "SmolLM2" in span.name]

    below = ["pipeline.queue", "llama_cpp.prefill", "llama_cpp.decode"]
    first = ["pipeline.queue", "pipeline.load", "llama_cpp.prefill", "llama_cpp.decode"]
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        runner = Runner(factory, tracer_provider=tracer_provider)
        names, counts = ask(runner)
        assert names == [("chat", first), ("text_completion", below)]
        for switch in (
            LlamaCppInstrumentor().uninstrument,
            lambda: LlamaCppInstrumentor().instrument(tracer_provider=tracer_provider),
        ):
            switch()
            names, counts_now = ask(runner)
            assert names == [("chat", below), ("text_completion", below)]
            assert [count["output"] for count in counts_now] == [count["output"] for count in counts] == [3, 3]


def test_the_span_has_the_facts_of_a_pipelines_span(smollm2, llama, tracer_provider, exporter):
    _streamed_chat(llama)
    direct = dict(the_call(exporter).attributes)
    exporter.clear()
    profile = ModelProfile(model_path=smollm2, n_ctx=N_CTX, n_batch=N_BATCH, options=ONE_THREAD)
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        runner = Runner(factory, tracer_provider=tracer_provider)
        list(runner.stream_pipeline(chat("What is the sea?", max_tokens=3, seed=5)))
    (ours,) = [dict(span.attributes) for span in exporter.get_finished_spans() if span.name.startswith("chat")]
    times = {"nodespan.time_to_first_token_s", "nodespan.prompt_eval_s", "nodespan.decode_s", "nodespan.tokens_per_s"}
    times.add("gen_ai.response.time_to_first_chunk")
    only_a_factory_knows = {
        f"nodespan.{key}" for key in ("pipeline_type", "cache_status", "queue_s", "load_s", "priority")
    }
    assert set(ours) - set(direct) == only_a_factory_knows
    assert set(direct) <= set(ours)
    counted_otherwise = {*times, "nodespan.chunks"}  # llama-cpp-python's chunks begin and end with one without text
    assert {k: v for k, v in direct.items() if k not in counted_otherwise} == {
        k: v for k, v in ours.items() if k in direct and k not in counted_otherwise
    }
    assert all(direct[name] > 0 for name in times)
