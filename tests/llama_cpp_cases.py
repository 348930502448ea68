"""Requests to a llama.cpp model in which a count is easily wrong, and llama-cpp-python's own counts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import pytest

import llama_cpp
from nodespan.types import GenerationRequest
from pipelines import chat, raw

N_CTX = 256  # llama.cpp's smallest
N_BATCH = 32
ONE_THREAD: Any = {"n_threads_batch": 1}  # two spinning threads beside other tests take longer than one
SUM = "What is 1+1? Answer with one number."  # "1 + 1 = 2", 7 tokens, on any processor: the model is sure of each
GREETING = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\nHi! How can I help you today?"
"""A text that every build of the model follows by the end token."""
STORY = "Once upon a time there was a ship, and the sea around it was blue and wide and"


@dataclass(frozen=True)
class Case:
    """Requests to one model, one after the other; the last one is compared, the others warm the cache.

    Attributes:
        ends: The expected end, if the case tests it. Texts of a random seed differ by processor.
        is_extended: Run by ``make test-extended``: other cases in ``make test`` have the same kind of prompt (a chat or
            a text), cache (empty, a prefix, the whole prompt), sampling (a seed or the likeliest token) and end.
    """

    name: str
    requests: tuple[GenerationRequest, ...]
    ends: Literal["stop", "length"] | None = None
    is_extended: bool = False


def words(count: int) -> str:
    """A prompt of this number of SmolLM2's tokens: each of these words is one."""
    return " the" * count


CASES = [
    Case("cold", (raw(STORY, seed=5, max_tokens=12),), is_extended=True),
    Case("cold chat", (chat("What is the sea?", seed=5, max_tokens=12),), is_extended=True),
    Case("no seed needed at temperature 0", (raw(STORY, temperature=0.0, max_tokens=12),), is_extended=True),
    Case("prefix", (raw(STORY, seed=5, max_tokens=4), raw(STORY + " it was", seed=6, max_tokens=8))),
    Case(
        "chat turn",
        (chat("What is the sea?", seed=5, max_tokens=4), chat("What is a ship?", seed=6, max_tokens=8)),
        is_extended=True,
    ),
    Case("exact hit", (raw(STORY, seed=5, max_tokens=1), raw(STORY, seed=5, max_tokens=8))),
    Case("longer one cached", (raw(STORY, seed=5, max_tokens=8), raw(STORY, seed=5, max_tokens=8)), is_extended=True),
    Case(
        "nothing in common",
        (raw(STORY, seed=5, max_tokens=8), raw("An apple is", seed=5, max_tokens=8)),
        is_extended=True,
    ),
    Case(
        "one token more than cached",
        (raw(words(10), seed=5, max_tokens=1), raw(words(11), seed=5, max_tokens=4)),
        is_extended=True,
    ),
    Case("a prompt of one token", (raw(words(1), seed=5, max_tokens=6),), is_extended=True),
    Case("one token of answer", (raw(STORY, seed=5, max_tokens=1),), "length"),
    *(
        Case(
            f"batch border {count}",
            (raw(words(count), seed=5, max_tokens=4),),
            is_extended=count not in (N_BATCH, N_BATCH + 1),
        )
        for count in (N_BATCH - 1, N_BATCH, N_BATCH + 1, 2 * N_BATCH, 2 * N_BATCH + 1)
    ),
    Case("stop string", (chat(SUM, temperature=0.0, max_tokens=40, stop=(" came", " =")),), "stop", is_extended=True),
    Case("stop string of several tokens", (chat(SUM, temperature=0.0, max_tokens=40, stop=("+ 1 =",)),), "stop"),
    Case("end token", (chat(SUM, temperature=0.0, max_tokens=40),), "stop", is_extended=True),
    Case("end token as the last one allowed", (chat(SUM, temperature=0.0, max_tokens=8),), "stop"),
    Case("end token at once", (raw(GREETING, temperature=0.0, max_tokens=9),), "stop"),
    Case("emoji", (raw("🎉🎊🎉🎊🎉🎊🎉🎊🎉🎊", temperature=0.0, max_tokens=15),), is_extended=True),
    Case("emoji cut by max_tokens", (raw("🎉🎊🎉🎊🎉🎊🎉🎊🎉🎊", temperature=0.0, max_tokens=13),)),
    Case("context full", (raw(words(N_CTX - 10), seed=5),), is_extended=True),
]
EACH_CASE = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=pytest.mark.extended if case.is_extended else ()) for case in CASES],
)


class _Seen(Exception):
    """The prompt is in the cache and is not evaluated."""


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
    """The prompt's tokens, as passed to ``Llama.generate``."""
    seen: list[int] = []

    def spy(tokens: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(tokens)
        raise _Seen

    llama.generate = spy  # type: ignore[method-assign]
    try:
        with suppress(_Seen):
            bare(llama, request, stream=False)
    finally:
        del llama.__dict__["generate"]
    return seen


def cached_by_the_rule(llama: llama_cpp.Llama, before: list[int], prompt: list[int]) -> int:
    """Number of evaluated tokens that ``Llama.generate`` reuses (its source, 0.3.36)."""
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False))))
    if common < len(prompt) or len(before) == len(prompt):
        return common
    return common - 1
