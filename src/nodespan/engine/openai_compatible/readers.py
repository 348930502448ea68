"""Readers of streamed answers: the text for the consumer, and the server's measurements for the result.

Phases are placed by one rule. The server's queue begins when the request is sent and ends when the server reports that
a slot has started. The prefill follows it, or, where no queue is reported, ends at the arrival of the first token. The
decode begins at that arrival. The lengths are those of the server's clock. An event may arrive late, never early: a
phase that would then end after the next event, or after the answer, is placed earlier. The remaining time of the
request is in no phase: it is ``nodespan.server.other_s``.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from nodespan import semconv
from nodespan.engine.contract import EnginePhase
from nodespan.engine.openai_compatible.json_values import (
    Object,
    as_count,
    as_object,
    as_objects,
    as_seconds,
    as_text,
)
from nodespan.engine.tool_calls import ToolCallPieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodespan.engine.contract import GenerationResult


class Reader:
    """Reads the chunks of one answer in OpenAI's protocol, with llama-server's ``timings`` and ``prompt_progress``.

    Attributes:
        is_complete: The server has ended the answer, and not the connection alone.
    """

    def __init__(self, result: GenerationResult, sent_at: float) -> None:
        self.is_complete = False
        self._result = result
        self._sent_at = sent_at
        self._tool_calls = ToolCallPieces()
        self._load_s: float | None = None

    def read(self, event: Object) -> str:
        """Copies the measurements of an event into the result; returns its text."""
        result = self._result
        if "prompt_progress" in event:
            self._read_progress(as_object(event["prompt_progress"]))
        if "timings" in event:
            read_timings(result, as_object(event["timings"]))
        if event.get("usage"):
            read_usage(result, as_object(event["usage"]))
        if semconv.RESPONSE_ID not in result.attributes:
            result.attributes |= {semconv.RESPONSE_ID: event.get("id"), semconv.RESPONSE_MODEL: event.get("model")}
        for choice in as_objects(event.get("choices")):
            if not choice.get("index"):
                return self._read_choice(choice)
        return ""

    def finish(self, began_at: float) -> None:
        """Places the phases. Call once, when the answer has ended or was abandoned.

        Args:
            began_at: When the first attempt began; the attempts before this one are in none of the phases.
        """
        result = self._result
        ended_at = time.perf_counter()
        result.phases = place_phases(result, self._sent_at, ended_at, self._load_s)
        if result.phases:
            known_s = sum(phase.duration_s for phase in result.phases)
            result.attributes[semconv.SERVER_OTHER] = max(0.0, ended_at - began_at - known_s)

    def _read_progress(self, progress: Object) -> None:
        """The first report of a slot ends the server's queue; each contains the progress of the prefill."""
        result = self._result
        if result.server_queue_s is None:
            processing_s = as_seconds(progress.get("time_ms"), 1e-3) or 0.0
            result.prefill_at = max(self._sent_at, time.perf_counter() - processing_s)
            result.server_queue_s = result.prefill_at - self._sent_at
        result.input_tokens = as_count(progress.get("total"))
        processed = as_count(progress.get("processed"))
        result.evaluated = lambda: processed

    def _read_choice(self, choice: Object) -> str:
        result = self._result
        delta = as_object(choice.get("delta")) or choice
        text = as_text(delta.get("content") or delta.get("text"))
        reasoning = as_text(delta.get("reasoning_content") or delta.get("reasoning"))
        self._answered(text, reasoning, delta.get("tool_calls"))
        if logprobs := choice.get("logprobs"):
            result.logprobs.append(logprobs)
        if reason := as_text(choice.get("finish_reason")):
            result.finish_reason = reason
            self.is_complete = True
        return text

    def _answered(self, text: str, reasoning: str, calls: object) -> None:
        result = self._result
        if result.first_token_at is None and (text or reasoning or calls):
            result.first_token_at = time.perf_counter()
        if reasoning:
            result.reasoning += reasoning
        if calls:
            self._tool_calls.add(calls)
            result.tool_calls = self._tool_calls.calls()


class OllamaReader(Reader):
    """Reads the lines of one answer in Ollama's own protocol."""

    def read(self, event: Object) -> str:
        """Copies the measurements of a line into the result; returns its text."""
        message = as_object(event.get("message"))
        text = as_text(message.get("content") or event.get("response"))
        reasoning = as_text(message.get("thinking") or event.get("thinking"))
        self._answered(text, reasoning, _calls(as_objects(message.get("tool_calls"))))
        if event.get("done"):
            self._read_end(event)
        return text

    def _read_end(self, event: Object) -> None:
        result = self._result
        result.finish_reason = as_text(event.get("done_reason")) or "stop"
        result.attributes[semconv.RESPONSE_MODEL] = event.get("model")
        result.input_tokens = result.prefill_tokens = as_count(event.get("prompt_eval_count"))
        result.output_tokens = as_count(event.get("eval_count"))
        result.prefill_s = as_seconds(event.get("prompt_eval_duration"), 1e-9)
        result.decode_s = as_seconds(event.get("eval_duration"), 1e-9)
        result.decode_tokens = None if result.output_tokens is None else max(0, result.output_tokens - 1)
        self._load_s = as_seconds(event.get("load_duration"), 1e-9)
        self.is_complete = True


def read_usage(result: GenerationResult, usage: Object) -> None:
    """Copies OpenAI's ``usage`` into a result."""
    result.input_tokens = as_count(usage.get("prompt_tokens"))
    result.output_tokens = as_count(usage.get("completion_tokens"))
    cached = as_count(as_object(usage.get("prompt_tokens_details")).get("cached_tokens"))
    if cached is not None:
        result.cached_input_tokens = cached
    reasoning = as_count(as_object(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    if reasoning is not None:
        result.attributes[semconv.USAGE_REASONING] = reasoning


def read_timings(result: GenerationResult, timings: Object) -> None:
    """Copies llama-server's ``timings``, from its clock and counters, into a result."""
    prompt_n, predicted_n = as_count(timings.get("prompt_n")), as_count(timings.get("predicted_n"))
    if not prompt_n and not predicted_n:
        return  # the slot has just started
    cached = as_count(timings.get("cache_n"))
    if prompt_n is not None:
        result.prefill_tokens = prompt_n
        result.prefill_s = as_seconds(timings.get("prompt_ms"), 1e-3)
        if cached is not None:
            result.cached_input_tokens = cached
            result.input_tokens = cached + prompt_n
    if predicted_n is not None:
        result.output_tokens = predicted_n
        result.decode_tokens = max(0, predicted_n - 1)
        result.decode_s = as_seconds(timings.get("predicted_ms"), 1e-3) if predicted_n > 1 else None


def place_phases(
    result: GenerationResult, sent_at: float, ended_at: float, load_s: float | None = None
) -> list[EnginePhase]:
    """The phases that the server reports, by the rule of this module."""
    phases: list[EnginePhase] = []
    first_token_at, prefill_s = result.first_token_at, result.prefill_s
    if first_token_at is not None and result.decode_s:
        first_token_at = max(sent_at, min(first_token_at, ended_at - result.decode_s))
    # By the server's own clock the prefill cannot have started later than this.
    latest_at = max(sent_at, first_token_at - prefill_s) if first_token_at and prefill_s is not None else None
    prefill_at = latest_at
    if result.server_queue_s is not None:
        # The event that ends the queue may arrive late; its delay belongs to the prefill.
        prefill_at = sent_at + result.server_queue_s
        if latest_at is not None and latest_at < prefill_at:
            prefill_at, result.server_queue_s = latest_at, latest_at - sent_at
        phases.append(EnginePhase(semconv.SERVER_QUEUE, sent_at, result.server_queue_s))
    if load_s and prefill_at is not None:
        phases.append(EnginePhase(semconv.SERVER_LOAD, max(sent_at, prefill_at - load_s), load_s))
    if prefill_at is not None and prefill_s is not None:
        result.prefill_at = prefill_at
        phases.append(EnginePhase(semconv.LLAMA_CPP_PREFILL, prefill_at, prefill_s, result.prefill_tokens))
    if first_token_at is not None and result.decode_s:
        phases.append(EnginePhase(semconv.LLAMA_CPP_DECODE, first_token_at, result.decode_s, result.decode_tokens))
    return phases


def _calls(calls: Sequence[Object]) -> list[dict[str, Any]]:
    """Ollama's tool calls in OpenAI's form: arguments as a text."""
    functions = [as_object(call.get("function")) for call in calls]
    return [
        {
            "index": function.get("index", place),
            "id": as_text(call.get("id")),
            "function": {"name": function.get("name"), "arguments": json.dumps(function.get("arguments", {}))},
        }
        for place, (call, function) in enumerate(zip(calls, functions, strict=True))
    ]
