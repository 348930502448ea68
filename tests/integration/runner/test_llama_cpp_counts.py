"""Counts and text of LlamaCppPipeline against llama-cpp-python itself, case by case, on models with an empty cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import llama_cpp
from llama_cpp_cases import (
    EACH_CASE,
    N_BATCH,
    N_CTX,
    ONE_THREAD,
    STORY,
    Case,
    bare,
    cached_by_the_rule,
    prompt_of,
    streamed_text,
    words,
)
from nodespan.runner import Cancellation, GenerationResult, LlamaCppPipeline
from nodespan.types import ModelProfile
from pipelines import raw


@pytest.fixture(scope="module")
def loaded(smollm2: Path) -> Iterator[llama_cpp.Llama]:
    with closing(llama_cpp.Llama(str(smollm2), n_ctx=N_CTX, n_batch=N_BATCH, verbose=False, **ONE_THREAD)) as llama:
        yield llama


@pytest.fixture
def models(smollm2: Path, loaded: llama_cpp.Llama) -> Iterator[Any]:
    """A new pipeline, and what empties the cache of the bare model."""

    def emptied() -> llama_cpp.Llama:
        loaded.reset()
        return loaded

    with closing(
        LlamaCppPipeline(ModelProfile(model_path=smollm2, n_ctx=N_CTX, n_batch=N_BATCH, options=ONE_THREAD))
    ) as ours:
        yield ours, emptied


@EACH_CASE
def test_text_and_counts_equal_those_of_llama_cpp_python(models: Any, case: Case) -> None:
    ours, emptied = models
    llama = emptied()
    for request in case.requests[:-1]:
        bare(llama, request, stream=False)
    evaluated = llama.input_ids[: llama.n_tokens].tolist()
    expected = bare(llama, case.requests[-1], stream=False)
    pieces_expected = streamed_text(emptied(), case.requests)
    prompt = prompt_of(llama, case.requests[-1])
    cached = cached_by_the_rule(llama, evaluated, prompt)

    result, pieces = GenerationResult(), list[str]()
    for request in case.requests:
        result = GenerationResult()
        pieces = list(ours.generate(request, Cancellation(), result))

    assert pieces == pieces_expected
    assert result.finish_reason == expected["choices"][0]["finish_reason"]
    assert case.ends in {None, result.finish_reason}
    assert result.input_tokens == expected["usage"]["prompt_tokens"]
    assert result.output_tokens == expected["usage"]["completion_tokens"]
    assert result.cached_input_tokens == cached
    assert result.prefill_tokens == len(prompt) - cached
    ended_by_a_token = result.finish_reason == "stop" and not case.requests[-1].sampling.stop
    assert result.decode_tokens == result.output_tokens - (0 if ended_by_a_token else 1)


@pytest.mark.parametrize("pieces_read", [1, 2, 7])
def test_closed_early_the_count_is_that_of_the_tokens_sampled(models: Any, pieces_read: int) -> None:
    ours, emptied = models
    result = GenerationResult()
    pieces = ours.generate(raw(STORY, seed=5), Cancellation(), result)
    read = [next(pieces) for _ in range(pieces_read)]
    pieces.close()
    expected = emptied().create_completion(STORY, seed=5, max_tokens=pieces_read)
    assert "".join(read) == expected["choices"][0]["text"]
    assert result.output_tokens == expected["usage"]["completion_tokens"] == pieces_read
    assert result.decode_tokens == pieces_read - 1
    assert result.finish_reason is None


def test_an_emoji_is_in_one_chunk(models: Any) -> None:
    ours, _ = models
    request = raw("🎉🎊🎉🎊🎉🎊🎉🎊🎉🎊", temperature=0.0, max_tokens=20)
    result = GenerationResult()
    pieces = list(ours.generate(request, Cancellation(), result))
    assert any(ord(character) > 0xFFFF for character in "".join(pieces)), pieces
    assert "�" not in "".join(pieces)
    assert result.output_tokens is not None
    assert result.output_tokens > len(pieces)


def test_without_llama_cpps_measurements_the_other_counts_are_recorded(smollm2: Path) -> None:
    profile = ModelProfile(model_path=smollm2, n_ctx=N_CTX, options={"no_perf": True})
    with closing(LlamaCppPipeline(profile)) as pipeline:
        result = GenerationResult()
        list(pipeline.generate(raw(STORY, seed=5, max_tokens=4), Cancellation(), result))
    assert (result.output_tokens, result.finish_reason) == (4, "length")
    assert result.input_tokens is not None
    assert (result.cached_input_tokens, result.prefill_s, result.decode_s) == (None, None, None)


def test_an_aborted_prefill_is_not_counted_for_the_next_request(models: Any) -> None:
    ours, emptied = models
    cancellation = Cancellation()
    cancellation.request()
    list(ours.generate(raw(words(100), seed=5), cancellation, GenerationResult()))
    result = GenerationResult()
    pieces = list(ours.generate(raw(STORY, seed=5, max_tokens=8), Cancellation(), result))
    assert pieces == streamed_text(emptied(), (raw(STORY, seed=5, max_tokens=8),))
    assert (result.prefill_tokens, result.cached_input_tokens) == (result.input_tokens, 0)
