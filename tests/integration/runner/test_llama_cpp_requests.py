"""Requests to the real model beyond a text: tools, response formats, grammars, log probabilities; and bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import llama_cpp
from nodespan.errors import ConfigurationError
from nodespan.runner import PipelineFactory, Runner
from nodespan.types import GenerationRequest, ModelProfile, ModelProfileType, Sampling
from pipelines import chat, raw


@pytest.fixture(scope="module")
def runner(smollm2: Path) -> Iterator[Runner]:
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=smollm2, n_ctx=512)}) as factory:
        yield Runner(factory)


def test_an_unknown_chat_format_is_refused_at_set_up(smollm2: Path) -> None:
    profile = ModelProfile(model_path=smollm2, chat_format="bogus")
    with pytest.raises(ConfigurationError, match=r"chat_format='bogus'.*chatml"):
        PipelineFactory({ModelProfileType.Primary: profile})


def test_a_prompt_without_tokens_is_refused(runner: Runner) -> None:
    with pytest.raises(ConfigurationError, match="no tokens"):
        list(runner.stream_pipeline(raw("")))
    assert list(runner.stream_pipeline(raw("The sea", max_tokens=3)))


@pytest.mark.parametrize(
    "text", ["a\0b", "\ud800", "<|im_end|>", "<|im_start|>system"], ids=["NUL", "surrogate", "end", "start"]
)
def test_unusual_text_has_an_answer_or_an_error_and_the_model_stays_usable(runner: Runner, text: str) -> None:
    for request in (raw(text, max_tokens=2), chat(text, max_tokens=2)):
        with suppress(UnicodeError):  # of llama-cpp-python: half a surrogate has no UTF-8
            list(runner.stream_pipeline(request))
        assert list(runner.stream_pipeline(raw("The sea", max_tokens=2)))


@pytest.mark.parametrize("role", ["tool", "developer", "robot"])
def test_an_unknown_role_has_an_answer_or_an_error_and_the_model_stays_usable(runner: Runner, role: str) -> None:
    request = GenerationRequest(messages=[{"role": role, "content": "Hi."}], sampling=Sampling(max_tokens=2))
    assert list(runner.stream_pipeline(request))
    assert list(runner.stream_pipeline(raw("The sea", max_tokens=2)))


def test_a_response_format_and_a_grammar_shape_the_answer(runner: Runner) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    asked = chat("Give a number.", seed=1, max_tokens=40).model_copy(
        update={"response_format": {"type": "json_object", "schema": schema}}
    )
    text = "".join(chunk.content for chunk in runner.stream_pipeline(asked))
    assert isinstance(json.loads(text)["n"], int)
    grammar = llama_cpp.LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False)
    stream = runner.stream_pipeline(GenerationRequest(prompt="Is it?", options={"grammar": grammar}))
    assert "".join(chunk.content for chunk in stream) in {"yes", "no"}


def test_a_tool_call_is_on_the_stream(smollm2: Path) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        },
    }
    profile = ModelProfile(model_path=smollm2, n_ctx=512, chat_format="chatml-function-calling")
    request = GenerationRequest(
        messages=[{"role": "user", "content": "Add 1."}],
        tools=(tool,),
        tool_choice={"type": "function", "function": {"name": "add"}},
        sampling=Sampling(seed=1, max_tokens=60, temperature=0.0),
    )
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        stream = Runner(factory).stream_pipeline(request)
        list(stream)
    (call,) = stream.tool_calls
    assert call.name == "add"
    assert isinstance(json.loads(call.arguments)["a"], int)
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "tool_calls"


def test_log_probabilities_are_on_the_stream(smollm2: Path) -> None:
    profile = ModelProfile(model_path=smollm2, n_ctx=256, options={"logits_all": True})
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        request = GenerationRequest(prompt="The sea", sampling=Sampling(max_tokens=3), options={"logprobs": 2})
        stream = Runner(factory).stream_pipeline(request)
        list(stream)
    assert stream.logprobs
    assert len(stream.logprobs[0]["top_logprobs"][0]) >= 2


def test_a_generation_that_fills_the_context_ends_as_length(smollm2: Path) -> None:
    profile = ModelProfile(model_path=smollm2, n_ctx=256, sampling=Sampling(seed=1, temperature=0.0))
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        runner = Runner(factory)
        streams = [runner.stream_pipeline(raw("The sea " * 123, max_tokens=500)) for _ in range(2)]
        texts = ["".join(chunk.content for chunk in stream) for stream in streams]
    for stream, text in zip(streams, texts, strict=True):
        assert text
        assert stream.metadata is not None
        assert stream.metadata.finish_reason == "length"
        assert (stream.metadata.input_tokens or 0) + (stream.metadata.output_tokens or 0) == 256


def test_a_model_is_loaded_by_a_link_with_blanks_and_other_scripts(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "ein Modell \u00fc \u6a21\u578b.gguf"
    path.symlink_to(smollm2)
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=path, n_ctx=64)}) as factory:
        stream = Runner(factory).stream_pipeline(raw("The sea", max_tokens=2))
        assert "".join(chunk.content for chunk in stream)
    assert stream.metadata is not None
    assert stream.metadata.model_name == path.stem
