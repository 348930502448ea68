"""A chat model for tests: reports its name and usage, and records the current span inside the provider's code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from opentelemetry import trace
from pydantic import Field


def ways(known: Iterable[str]) -> list[Any]:
    """Ways to call a model, as parameters of a test; those that this LangChain does not have are skipped."""
    has_v3 = hasattr(BaseChatModel, "_iter_v2_events")
    skip = pytest.mark.skipif(not has_v3, reason="this LangChain has no v3 event stream")
    return [pytest.param(way, marks=[skip] if "v3" in way else []) for way in known]


class Talker(BaseChatModel):
    """Streams ``words``, one per chunk; fails in place of the word number ``fails_at``; waits at ``waits_at``."""

    model_name: str = "talker-1"
    temperature: float = 0.5
    top_p: float | None = None
    words: tuple[str, ...] = ("good", " day")
    tool_calls: list[Any] = Field(default_factory=list)
    error: Any = None
    fails_at: int = 0
    waits_at: int | None = None
    seen: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "talker"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(**kwargs)

    def _see(self) -> None:
        self.seen.append(getattr(trace.get_current_span(), "name", ""))

    def _usage(self, spoken: int) -> UsageMetadata:
        return UsageMetadata(
            input_tokens=3,
            output_tokens=spoken,
            total_tokens=3 + spoken,
            input_token_details=InputTokenDetails(cache_read=1),
        )

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self._see()
        if self.error is not None:
            raise self.error
        message = AIMessage(
            "" if self.tool_calls else "".join(self.words),
            id="chatcmpl-1",
            usage_metadata=self._usage(len(self.words)),
            tool_calls=self.tool_calls.pop(0) if self.tool_calls else [],
        )
        info = {"finish_reason": "tool_calls" if message.tool_calls else "stop", "model_name": "talker-1-0613"}
        return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if self.waits_at is not None:
            self._see()
            await asyncio.Event().wait()
        return self._generate(messages)

    def _chunk(self, index: int, asked: list[Any]) -> ChatGenerationChunk:
        self._see()
        if self.error is not None and index == self.fails_at:
            raise self.error
        last = bool(asked) or index == len(self.words) - 1
        message = AIMessageChunk(
            "" if asked else self.words[index],
            id="chatcmpl-1",
            usage_metadata=self._usage(len(self.words)) if last else None,
            tool_call_chunks=[
                tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=number)
                for number, call in enumerate(asked)
            ],
        )
        info = {"finish_reason": "tool_calls" if asked else "stop", "model_name": "talker-1-0613"} if last else None
        return ChatGenerationChunk(message=message, generation_info=info)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        asked = self.tool_calls.pop(0) if self.tool_calls else []
        for index in range(1 if asked else len(self.words)):
            yield self._chunk(index, asked)

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        asked = self.tool_calls.pop(0) if self.tool_calls else []
        for index in range(1 if asked else len(self.words)):
            if index == self.waits_at:
                self._see()
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            yield self._chunk(index, asked)


class Remote(Talker):
    """The same model with an address."""

    base_url: str = "http://models.example:8080/v1"
