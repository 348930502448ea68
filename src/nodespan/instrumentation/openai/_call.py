"""A chat completion of the openai package: its span, the pieces of its answer, and its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nodespan import semconv
from nodespan.engine.contract import GenerationResult
from nodespan.engine.generation_span import server_attributes
from nodespan.engine.measurement import add_to_outer, describe, engine_phases, record_engine, record_generation
from nodespan.engine.openai_compatible.endpoints import propagates_to
from nodespan.engine.openai_compatible.readers import place_phases
from nodespan.engine.prefix import describe_context
from nodespan.engine.tool_calls import ToolCallPieces
from nodespan.instrumentation._outcome import end_span, outcome_of
from nodespan.instrumentation._state import InstrumentationState
from nodespan.instrumentation.openai import _convert, _peers
from nodespan.spans.attributes import to_attributes
from nodespan.spans.exceptions import error_type
from nodespan.spans.guard import Guard
from nodespan.spans.message_parts import message
from nodespan.spans.model_call import ModelCallSpan, current_model_call

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

    from nodespan.spans.instruments import Instruments

_OPENING: Final = Guard("open a span of the openai package")
_READING: Final = Guard("read an answer of the openai package")
_MEASURING: Final = Guard("describe a call of the openai package")
_PROPAGATOR: Final = TraceContextTextMapPropagator()

STATE: Final = InstrumentationState()


def open_call(resource: object, given: Mapping[str, Any]) -> OpenAICall | None:
    """The scope of a request; ``None`` if it has a span that nodespan cannot add to, or nothing is recorded.

    Inside a call of a LangChain model, or of another instrumentation of the package, the measurements go to its span.
    """
    if (here := STATE.surroundings()) is None:
        return None
    with _OPENING:
        model = _convert.model_of(given)
        outer = current_model_call()
        if outer is not None and not outer.is_call_of(semconv.CHAT, model):
            outer = None
        theirs = _peers.span_of_a_peer() if outer is None else None
        if outer is None and theirs is None and _peers.makes_spans():
            return None
        return OpenAICall(resource, given, here.tracer, here.instruments, outer, theirs)
    return None


class OpenAICall:
    """The span of a call, or additions to the span of the LangChain model or of the instrumentation around it.

    Attributes:
        has_left: The call has ended.
    """

    def __init__(
        self,
        resource: object,
        given: Mapping[str, Any],
        tracer: Tracer,
        instruments: Instruments,
        outer: ModelCallSpan | None,
        theirs: Span | None,
    ) -> None:
        self._started_at = time.perf_counter()
        self._started_ns = time.time_ns()
        self._result = GenerationResult()
        self._theirs = theirs
        self._is_own = outer is None and theirs is None
        self._server = _convert.server_of(resource)
        self._texts: list[str] = []
        self._tool_calls = ToolCallPieces()
        self._chunks = 0
        self.has_left = False
        self._scope = outer
        if self._is_own:
            self._scope = ModelCallSpan(
                tracer,
                semconv.CHAT,
                _provider(self._server.address if self._server else ""),
                _convert.model_of(given),
                {**server_attributes(self._server), **_convert.request(given)},
                kind=SpanKind.CLIENT,
                start_time_ns=self._started_ns,
                instruments=instruments,
                logger_provider=STATE.logger_provider,
            )
            if self._scope.content is not None:
                with _READING:
                    _convert.set_input(self._scope.content, given)

    def headers(self, given: object) -> dict[str, Any]:
        """The ``extra_headers`` of the request with ``traceparent``; headers of the caller take precedence."""
        carrier: dict[str, Any] = {}
        if self._server is not None and propagates_to(self._server.address):
            _PROPAGATOR.inject(carrier, self._scope.context_over() if self._scope is not None else None)
        return {**carrier, **(cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {})}

    def step(self) -> AbstractContextManager[None]:
        """Makes the span current."""
        return nullcontext() if self._scope is None else self._scope.attached()

    def read_answer(self, answer: object) -> None:
        """Reads a whole answer."""
        with _READING:
            self._read(answer, getattr(_convert.first_choice(answer), "message", None))

    def saw(self, chunk: object) -> None:
        """Reads a chunk of a streamed answer."""
        with _READING:
            self._chunks += 1
            delta = getattr(_convert.first_choice(chunk), "delta", None)
            if self._result.first_token_at is None and delta is not None and _has_content(delta):
                self._result.first_token_at = time.perf_counter()
            self._read(chunk, delta)

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the call, once."""
        if self.has_left:
            return
        self.has_left = True
        outcome = outcome_of(error)
        if outcome == "cancelled" and self._result.finish_reason is not None:
            outcome = "ok"  # the whole answer was read, without the end of the stream
        with _MEASURING:
            self._describe(outcome, error)
        if self._is_own and self._scope is not None:
            end_span(self._scope, None if outcome == "ok" else error)

    def _read(self, answer: object, reply: object) -> None:
        result = self._result
        _convert.measurements(result, answer)
        if semconv.RESPONSE_ID not in result.attributes:
            result.attributes[semconv.RESPONSE_ID] = getattr(answer, "id", None)
            result.attributes[semconv.RESPONSE_MODEL] = getattr(answer, "model", None)
        choice = _convert.first_choice(answer)
        result.finish_reason = getattr(choice, "finish_reason", None) or result.finish_reason
        if reply is not None and self._is_own and self._scope is not None and self._scope.content is not None:
            self._texts.append(getattr(reply, "content", None) or "")
            calls = getattr(reply, "tool_calls", None) or ()
            self._tool_calls.add([call.model_dump() for call in calls])

    def _describe(self, outcome: str, error: BaseException | None) -> None:
        started_at, ended_at = self._started_at, time.perf_counter()
        is_streamed = self._result.first_token_at is not None
        if not is_streamed and self._result.prefill_s is not None:
            self._result.first_token_at = ended_at  # the tokens of a whole answer arrive at its end
        result, _ = self._result.checked(started_at)
        result.phases = place_phases(result, started_at, ended_at)
        facts = result.facts(started_at)
        if not is_streamed:
            facts["time_to_first_token_s"] = None
        if self._theirs is not None:
            if self._theirs.is_recording():
                self._theirs.set_attributes(to_attributes(_own_facts(facts)))
            return
        assert self._scope is not None
        describe_context(self._scope, result)
        phases = list(engine_phases(result, self._unix_ns))
        if not self._is_own:
            record_engine(self._scope, facts, (result,), in_process=False)
            add_to_outer(self._scope, facts, phases)
            return
        self._describe_own(self._scope, result, facts, phases, outcome, error)

    def _describe_own(
        self,
        scope: ModelCallSpan,
        result: GenerationResult,
        facts: dict[str, Any],
        phases: list[Any],
        outcome: str,
        error: BaseException | None,
    ) -> None:
        facts["finish_reason"] = result.finish_reason if outcome == "ok" else outcome
        if outcome == "error" and error is not None:
            status = getattr(error, "status_code", None)
            facts["error_type"] = str(status) if isinstance(status, int) else error_type(error)
        if scope.content is not None:
            parts = _convert.answer_parts("".join(self._texts), self._tool_calls)
            scope.content.set_output([message("assistant", parts, facts["finish_reason"])])
        if result.provider is not None:
            scope.provider = result.provider.lower()
        first_chunk_s = None
        if self._chunks and self._result.first_token_at is not None:
            first_chunk_s = self._result.first_token_at - self._started_at
        record_generation(
            scope,
            facts,
            (result,),
            duration_s=time.perf_counter() - self._started_at,
            time_to_first_chunk_s=first_chunk_s,
            in_process=False,
        )
        describe(scope, facts, phases, chunks=self._chunks or None, time_to_first_chunk_s=first_chunk_s)
        scope.measured.update({**result.attributes, semconv.PROVIDER_NAME: scope.provider})
        if facts.get("error_type"):
            scope.measured[semconv.ERROR_TYPE] = facts["error_type"]

    def _unix_ns(self, at: float) -> int:
        return self._started_ns + round((at - self._started_at) * 1e9)


def _provider(host: str) -> str:
    return "openai" if host == "api.openai.com" else "openai_compatible"


def _has_content(delta: object) -> bool:
    names = ("content", "tool_calls", "reasoning_content", "reasoning")
    return any(getattr(delta, name, None) for name in names)


def _own_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Nodespan's own measurements, for a span that has the standard ones."""
    names = ("server_queue_s", "prompt_eval_s", "decode_s", "tokens_per_s", "time_to_first_token_s")
    found = {semconv.MIRROR_KEYS[name]: facts.get(name) for name in names}
    return {**found, semconv.USAGE_CACHE_READ: facts.get("cached_input_tokens")}
