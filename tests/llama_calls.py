"""Methods to call a llama.cpp model, and the resulting spans."""

from __future__ import annotations

import types

import pytest

from llama_cpp_cases import N_CTX, STORY, words

METHODS = ("__call__", "create_completion", "create_chat_completion", "create_embedding", "embed", "generate")
MESSAGES = [{"role": "user", "content": "What is the sea?"}]


def whole(llama):
    return llama.create_completion(STORY, max_tokens=3, seed=5)


def whole_chat(llama):
    return llama.create_chat_completion(MESSAGES, max_tokens=3, seed=5)


def streamed(llama):
    return llama.create_completion(STORY, max_tokens=8, seed=5, stream=True)


def streamed_chat(llama):
    return llama.create_chat_completion(MESSAGES, max_tokens=8, seed=5, stream=True)


def tokens(llama):
    return llama.generate(llama.tokenize(STORY.encode()), temp=0.0)


def too_long(llama, **more):
    return llama.create_completion(words(N_CTX + 1), **more)


STREAMS = pytest.mark.parametrize("stream", [streamed, streamed_chat, tokens], ids=lambda stream: stream.__name__)
ANY = pytest.mark.parametrize("ask", [whole, whole_chat, streamed, streamed_chat], ids=lambda ask: ask.__name__)


def read(answer):
    """The result, without ids and times, which differ between calls."""
    pieces = list(answer) if isinstance(answer, types.GeneratorType) else [answer]
    return [{key: value for key, value in piece.items() if key not in {"id", "created"}} for piece in pieces]


def calls(exporter):
    """The spans of calls, without their children."""
    return [span for span in exporter.get_finished_spans() if not span.name.startswith("llama_cpp.")]


def the_call(exporter):
    (span,) = calls(exporter)
    return span


def status(span):
    return span.attributes["nodespan.status"]
