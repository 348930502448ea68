"""Counts and text of LlamaCppPipeline against llama-cpp-python itself, case by case, on fresh models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import llama_cpp
from nodespan.runner import Cancellation, GenerationResult, LlamaCppPipeline
from nodespan.types import GenerationRequest, ModelProfile
from pipelines import chat, raw

N_CTX = 256  # llama.cpp's smallest
N_BATCH = 32
ONE_THREAD: Any = {"n_threads_batch": 1}  # two that spin beside other tests take longer than one
SUM = "What is 1+1? Answer with one number."  # "1 + 1 = 2", 7 tokens, on any processor: the model is sure of each
STORY = "Once upon a time there was a ship, and the sea around it was blue and wide and"


@dataclass(frozen=True)
class Case:
    """Requests to one model, one after the other; the last one is compared, the others warm the cache."""

    name: str
    requests: tuple[GenerationRequest, ...]
    finish_reason: str = "length"


def words(count: int) -> str:
    """A prompt of exactly so many tokens of SmolLM2: each of these words is one."""
    return " the" * count


CASES = [
    Case("cold", (raw(STORY, seed=5, max_tokens=12),)),
    Case("cold chat", (chat("What is the sea?", seed=5, max_tokens=12),)),
    Case("no seed needed at temperature 0", (raw(STORY, temperature=0.0, max_tokens=12),)),
    Case("prefix", (raw(STORY, seed=5, max_tokens=4), raw(STORY + " it was", seed=6, max_tokens=8))),
    Case("chat turn", (chat("What is the sea?", seed=5, max_tokens=4), chat("What is a ship?", seed=6, max_tokens=8))),
    Case("exact hit", (raw(STORY, seed=5, max_tokens=1), raw(STORY, seed=5, max_tokens=8))),
    Case("longer one cached", (raw(STORY, seed=5, max_tokens=8), raw(STORY, seed=5, max_tokens=8))),
    Case("nothing in common", (raw(STORY, seed=5, max_tokens=8), raw("An apple is", seed=5, max_tokens=8))),
    Case("one token more than cached", (raw(words(10), seed=5, max_tokens=1), raw(words(11), seed=5, max_tokens=4))),
    Case("a prompt of one token", (raw(words(1), seed=5, max_tokens=6),)),
    Case("one token of answer", (raw(STORY, seed=5, max_tokens=1),)),
    *(
        Case(f"batch border {count}", (raw(words(count), seed=5, max_tokens=4),))
        for count in (N_BATCH - 1, N_BATCH, N_BATCH + 1, 2 * N_BATCH, 2 * N_BATCH + 1)
    ),
    Case("stop string", (raw(STORY, seed=5, max_tokens=40, stop=(" came", " the")),), "stop"),
    Case("stop string of several tokens", (chat(SUM, temperature=0.0, max_tokens=40, stop=("+ 1 =",)),), "stop"),
    Case("end token", (chat(SUM, temperature=0.0, max_tokens=40),), "stop"),
    Case("end token as the last one allowed", (chat(SUM, temperature=0.0, max_tokens=8),), "stop"),
    Case("emoji", (raw("🎉🎊🎉🎊🎉🎊🎉🎊🎉🎊", temperature=0.0, max_tokens=15),)),
    Case("emoji cut by max_tokens", (raw("🎉🎊🎉🎊🎉🎊🎉🎊🎉🎊", temperature=0.0, max_tokens=13),)),
    Case("context full", (raw(words(N_CTX - 10), seed=5),)),
]


@pytest.fixture
def models(smollm2: Path) -> Iterator[Any]:
    with closing(
        LlamaCppPipeline(ModelProfile(model_path=smollm2, n_ctx=N_CTX, n_batch=N_BATCH, options=ONE_THREAD))
    ) as ours:
        yield ours, lambda: llama_cpp.Llama(str(smollm2), n_ctx=N_CTX, n_batch=N_BATCH, verbose=False, **ONE_THREAD)


def bare(llama: llama_cpp.Llama, request: GenerationRequest, *, stream: bool) -> Any:
    arguments = request.sampling.model_dump(exclude_defaults=True)
    if "stop" in arguments:
        arguments["stop"] = list(arguments["stop"])
    if request.prompt is not None:
        return llama.create_completion(request.prompt, stream=stream, **arguments)
    messages: Any = [message.model_dump() for message in request.messages]
    return llama.create_chat_completion(messages, stream=stream, **arguments)


def streamed_text(llama: llama_cpp.Llama, requests: tuple[GenerationRequest, ...]) -> list[str]:
    texts: list[str] = []
    for request in requests:
        choices = [chunk["choices"][0] for chunk in bare(llama, request, stream=True)]
        texts = [choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices]
    return [text for text in texts if text]


def prompt_of(llama: llama_cpp.Llama, request: GenerationRequest) -> list[int]:
    """The prompt's tokens, as ``Llama.generate`` is given them."""
    seen: list[list[int]] = []
    original = llama.generate

    def spy(tokens: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(list(tokens))
        return original(tokens, *args, **kwargs)

    llama.generate = spy  # type: ignore[method-assign]
    try:
        bare(
            llama,
            request.model_copy(update={"sampling": request.sampling.model_copy(update={"max_tokens": 1})}),
            stream=False,
        )
    finally:
        del llama.__dict__["generate"]
    return seen[0]


def cached_by_the_rule(llama: llama_cpp.Llama, before: list[int], prompt: list[int]) -> int:
    """How many tokens ``Llama.generate`` reuses of what the model has evaluated before (its source, 0.3.36)."""
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False))))
    if common < len(prompt) or len(before) == len(prompt):
        return common
    return common - 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_text_and_counts_are_those_of_llama_cpp_python(models: Any, case: Case) -> None:
    ours, make = models
    with closing(make()) as llama:
        for request in case.requests[:-1]:
            bare(llama, request, stream=False)
        evaluated = llama.input_ids[: llama.n_tokens].tolist()
        expected = bare(llama, case.requests[-1], stream=False)
    with closing(make()) as llama:
        pieces_expected = streamed_text(llama, case.requests)
        prompt = prompt_of(llama, case.requests[-1])
        cached = cached_by_the_rule(llama, evaluated, prompt)

    result, pieces = GenerationResult(), list[str]()
    for request in case.requests:
        result = GenerationResult()
        pieces = list(ours.generate(request, Cancellation(), result))

    assert pieces == pieces_expected
    assert result.finish_reason == expected["choices"][0]["finish_reason"] == case.finish_reason
    assert result.input_tokens == expected["usage"]["prompt_tokens"]
    assert result.output_tokens == expected["usage"]["completion_tokens"]
    assert result.cached_input_tokens == cached
    assert result.prefill_tokens == len(prompt) - cached
    ended_by_a_token = case.finish_reason == "stop" and not case.requests[-1].sampling.stop
    assert result.decode_tokens == result.output_tokens - (0 if ended_by_a_token else 1)


@pytest.mark.parametrize("pieces_read", [1, 2, 7])
def test_closed_early_the_count_is_that_of_the_tokens_sampled(models: Any, pieces_read: int) -> None:
    ours, make = models
    result = GenerationResult()
    pieces = ours.generate(raw(STORY, seed=5), Cancellation(), result)
    read = [next(pieces) for _ in range(pieces_read)]
    pieces.close()
    with closing(make()) as llama:
        expected = llama.create_completion(STORY, seed=5, max_tokens=pieces_read)
    assert "".join(read) == expected["choices"][0]["text"]
    assert result.output_tokens == expected["usage"]["completion_tokens"] == pieces_read
    assert result.decode_tokens == pieces_read - 1
    assert result.finish_reason is None


def test_an_emoji_is_whole_in_one_piece(models: Any) -> None:
    ours, _ = models
    request = raw("🎉🎊🎉🎊🎉🎊🎉🎊🎉🎊", temperature=0.0, max_tokens=20)
    result = GenerationResult()
    pieces = list(ours.generate(request, Cancellation(), result))
    assert any(ord(character) > 0xFFFF for character in "".join(pieces)), pieces
    assert "�" not in "".join(pieces)
    assert result.output_tokens is not None
    assert result.output_tokens > len(pieces)


def test_without_llama_cpps_own_measuring_the_counts_that_do_not_need_it_stay(smollm2: Path) -> None:
    profile = ModelProfile(model_path=smollm2, n_ctx=N_CTX, options={"no_perf": True})
    with closing(LlamaCppPipeline(profile)) as pipeline:
        result = GenerationResult()
        list(pipeline.generate(raw(STORY, seed=5, max_tokens=4), Cancellation(), result))
    assert (result.output_tokens, result.finish_reason) == (4, "length")
    assert result.input_tokens is not None
    assert (result.cached_input_tokens, result.prefill_s, result.decode_s) == (None, None, None)


def test_an_aborted_prefill_is_not_counted_as_the_next_requests(models: Any) -> None:
    ours, make = models
    cancellation = Cancellation()
    cancellation.request()
    list(ours.generate(raw(words(100), seed=5), cancellation, GenerationResult()))
    result = GenerationResult()
    pieces = list(ours.generate(raw(STORY, seed=5, max_tokens=8), Cancellation(), result))
    with closing(make()) as llama:
        assert pieces == streamed_text(llama, (raw(STORY, seed=5, max_tokens=8),))
    assert (result.prefill_tokens, result.cached_input_tokens) == (result.input_tokens, 0)
