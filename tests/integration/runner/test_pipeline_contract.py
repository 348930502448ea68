"""One suite for everything that is a Pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_server import LlamaServer
from nodespan.errors import ConfigurationError
from nodespan.runner import (
    AsyncPipeline,
    Cancellation,
    GenerationResult,
    LlamaCppPipeline,
    OpenAICompatiblePipeline,
    Pipeline,
)
from nodespan.testing import AsyncEchoPipeline, EchoPipeline
from nodespan.types import GenerationRequest, ModelProfile
from pipelines import chat, raw, wait_for

Fresh = Callable[[], Any]

ROUNDING_S = 1e-9  # of differences of clock readings; the resolution of a span
QUESTION = "Once upon a time there was a ship, and the sea around it was"


class Synchronous:
    """An asynchronous pipeline on an event loop of its own, so that one suite serves both forms."""

    def __init__(self, pipeline: AsyncPipeline) -> None:
        self.pipeline = pipeline
        self.loop = asyncio.new_event_loop()

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        pieces = self.pipeline.agenerate(request, cancellation, result)
        try:
            while (piece := self.loop.run_until_complete(anext(pieces, None))) is not None:
                yield piece
        finally:
            self.loop.run_until_complete(pieces.aclose())

    def close(self) -> None:
        if not self.loop.is_closed():
            self.loop.run_until_complete(self.pipeline.aclose())
            self.loop.run_until_complete(self.pipeline.aclose())
            self.loop.close()


@pytest.fixture(scope="module")
def llama_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(smollm2, tmp_path_factory.mktemp("llama-server"), slots=1) as server:
        yield server


@pytest.fixture(params=["EchoPipeline", "AsyncEchoPipeline", "LlamaCppPipeline", "OpenAICompatiblePipeline"])
def fresh(request: pytest.FixtureRequest, smollm2: Path) -> Iterator[Fresh]:
    """Loads the pipeline anew each time; closes what it loaded."""
    made: list[Pipeline] = []

    def load() -> Pipeline:
        if request.param == "EchoPipeline":
            made.append(EchoPipeline(ModelProfile(name="echo")))
        elif request.param == "AsyncEchoPipeline":
            made.append(Synchronous(AsyncEchoPipeline(ModelProfile(name="echo"))))
        elif request.param == "OpenAICompatiblePipeline":
            server: LlamaServer = request.getfixturevalue("llama_server")
            wait_for(lambda: server.busy() == 0)
            server.erase()
            made.append(Synchronous(OpenAICompatiblePipeline(ModelProfile(base_url=server.url, name="smol"))))
        else:
            made.append(
                LlamaCppPipeline(
                    ModelProfile(model_path=smollm2, n_ctx=512, n_batch=64, options={"n_threads_batch": 1})
                )
            )
        return made[-1]

    yield load
    for pipeline in made:
        pipeline.close()


def answer(pipeline: Pipeline, request: GenerationRequest) -> tuple[list[str], GenerationResult]:
    result = GenerationResult()
    return list(pipeline.generate(request, Cancellation(), result)), result


@pytest.mark.parametrize("ask", [chat, raw])
def test_an_answer_has_non_empty_chunks_and_counts(fresh: Fresh, ask: Any) -> None:
    pieces, result = answer(fresh(), ask(QUESTION, seed=1, temperature=0.0, max_tokens=8))
    assert len(pieces) > 1
    assert all(pieces)
    assert result.output_tokens == 8
    assert result.finish_reason == "length"
    assert result.input_tokens is not None
    assert result.input_tokens >= len(QUESTION.split())
    assert result.cached_input_tokens == 0
    assert result.prefill_tokens == result.input_tokens
    assert result.decode_tokens == 7
    assert result.context_size is not None
    assert result.context_size >= 512


def test_times_are_those_of_the_generation(fresh: Fresh) -> None:
    _, result = answer(fresh(), chat(QUESTION, seed=1, max_tokens=5))
    assert result.prefill_at is not None
    assert result.first_token_at is not None
    assert result.prefill_s is not None
    assert result.decode_s is not None
    assert 0 < result.prefill_s <= result.first_token_at - result.prefill_at + ROUNDING_S
    assert result.decode_s > 0


def test_the_same_request_again_finds_its_prompt_cached_and_gives_the_same_text(fresh: Fresh) -> None:
    pipeline = fresh()
    request = chat(QUESTION, seed=1, temperature=0.0, max_tokens=6)
    first, cold = answer(pipeline, request)
    again, warm = answer(pipeline, request)
    assert again == first
    assert warm.input_tokens == cold.input_tokens
    assert warm.cached_input_tokens is not None
    assert warm.cached_input_tokens >= (warm.input_tokens or 0) - 1
    assert warm.prefill_tokens == (warm.input_tokens or 0) - warm.cached_input_tokens


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(fresh: Fresh) -> None:
    whole, _ = answer(fresh(), chat(QUESTION, seed=1, temperature=0.0, max_tokens=12))
    stop = "".join(whole).split()[3]
    pieces, result = answer(fresh(), chat(QUESTION, seed=1, temperature=0.0, max_tokens=12, stop=(stop,)))
    assert stop not in "".join(pieces)
    assert "".join(pieces) == "".join(whole).partition(stop)[0]
    assert result.finish_reason == "stop"


def test_an_answer_closed_early_does_not_change_the_next_one(fresh: Fresh) -> None:
    pipeline = fresh()
    result = GenerationResult()
    pieces = pipeline.generate(chat(QUESTION, seed=1, temperature=0.0), Cancellation(), result)
    taken = [next(pieces), next(pieces)]
    pieces.close()
    assert taken
    assert result.finish_reason is None
    assert result.output_tokens == 2
    request = raw("The ships are old and the sea is", seed=2, temperature=0.0, max_tokens=6)
    assert answer(pipeline, request)[0] == answer(fresh(), request)[0]


def test_cancellation_before_the_first_token_ends_it_without_an_error(fresh: Fresh) -> None:
    pipeline = fresh()
    cancellation, result = Cancellation(), GenerationResult()
    cancellation.request()
    assert list(pipeline.generate(raw(QUESTION, seed=1), cancellation, result)) == []
    assert result.finish_reason is None
    request = raw(QUESTION, seed=2, temperature=0.0, max_tokens=6)
    assert answer(pipeline, request)[0] == answer(fresh(), request)[0]


def test_cancellation_between_tokens_ends_it_after_at_most_one_more_piece(fresh: Fresh) -> None:
    pipeline = fresh()
    cancellation, result = Cancellation(), GenerationResult()
    pieces = pipeline.generate(raw(QUESTION, seed=1), cancellation, result)
    next(pieces)
    cancellation.request()
    assert len(list(pieces)) <= 1
    assert result.finish_reason is None
    request = raw(QUESTION, seed=2, temperature=0.0, max_tokens=6)
    assert answer(pipeline, request)[0] == answer(fresh(), request)[0]


def test_closing_is_idempotent(fresh: Fresh) -> None:
    pipeline = fresh()
    pipeline.close()
    pipeline.close()


@pytest.mark.parametrize("pipeline_class", [EchoPipeline, AsyncEchoPipeline, LlamaCppPipeline])
def test_an_unknown_option_is_refused_and_the_known_ones_are_named(pipeline_class: Any, smollm2: Path) -> None:
    profile = ModelProfile(model_path=smollm2, options={"colour": "blue"})
    known = "rope_freq_base" if pipeline_class is LlamaCppPipeline else "delay_s"
    with pytest.raises(ConfigurationError, match=rf"(?s)colour.*{known}"):
        pipeline_class(profile)
