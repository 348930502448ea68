"""A call of llama-cpp-python: its outermost method, the pieces of its answer, and its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api

from nodespan.engine.contract import GenerationResult
from nodespan.engine.llama_cpp.pipeline import LlamaCppPipeline
from nodespan.engine.measurement import add_to_outer, describe, engine_phases, record_engine, record_generation, total
from nodespan.engine.phase import engine_phase
from nodespan.engine.prefix import describe_context
from nodespan.instrumentation._outcome import end_span, outcome_of
from nodespan.instrumentation._state import InstrumentationState
from nodespan.instrumentation.llama_cpp import _convert
from nodespan.instrumentation.llama_cpp._messages import Answer
from nodespan.spans.exceptions import error_type
from nodespan.spans.guard import Guard
from nodespan.spans.model_call import ModelCallSpan, current_model_call
from nodespan.spans.phases import Phase, publish
from nodespan.spans.scope import Step
from nodespan.types import ModelProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    import llama_cpp
    from nodespan.spans.content import ModelContent
    from nodespan.spans.instruments import Instruments
    from nodespan.spans.scope import Outcome

_CALL_KEY: Final = context_api.create_key("nodespan-llama-cpp-call")
_OPENING: Final = Guard("open a llama.cpp span")
_READING: Final = Guard("read an answer of llama.cpp")
_MEASURING: Final = Guard("describe a llama.cpp call")


STATE: Final = InstrumentationState()


def current_call(llama: llama_cpp.Llama) -> LlamaCall | None:
    """The current call of this model: its methods call each other."""
    call = context_api.get_value(_CALL_KEY)
    return call if isinstance(call, LlamaCall) and call.llama is llama else None


def open_call(
    llama: llama_cpp.Llama,
    operation: str,
    request: Callable[[], Mapping[str, Any]],
    set_input: Callable[[ModelContent], None] | None = None,
) -> LlamaCall | None:
    """The scope of a method's call; ``None`` inside another method of the model, or if nothing is recorded.

    Inside a call that LangChain makes of this model, the measurements go to LangChain's span. The ``Llama`` of a
    ``LlamaCppPipeline`` is measured by that. Any other call has a separate span, such as that of a second model in a
    logits processor.

    Args:
        llama: The model.
        operation: One of the operations in ``semconv``.
        request: Returns the attributes of the request.
        set_input: Writes the model's input; ``None`` where that is not text.
    """
    if (here := STATE.surroundings()) is None or current_call(llama) is not None or _is_of_a_pipeline(llama):
        return None
    with _OPENING:
        outer = current_model_call() if context_api.get_value(_CALL_KEY) is None else None
        call = LlamaCall(llama, here.tracer, here.instruments, operation, request(), outer)
        if set_input is not None:
            call.set_input(set_input)
        return call
    return None


def _is_of_a_pipeline(llama: llama_cpp.Llama) -> bool:
    """Whether a pipeline measures this model: it has replaced its ``generate``."""
    return isinstance(getattr(llama.generate, "__self__", None), LlamaCppPipeline)


class LlamaCall:
    """The span of a call, or additions to that of the LangChain call around it.

    Attributes:
        llama: The model.
    """

    __slots__ = (
        "__weakref__", "_answer", "_chunks", "_finish_reason", "_first_chunk_at", "_is_own", "_model_name", "_results",
        "_scope", "_started_at", "_started_ns", "llama",
    )  # fmt: skip

    def __init__(
        self,
        llama: llama_cpp.Llama,
        tracer: Tracer,
        instruments: Instruments,
        operation: str,
        request: Mapping[str, Any],
        outer: ModelCallSpan | None,
    ) -> None:
        self.llama = llama
        self._started_at = time.perf_counter()
        self._started_ns = time.time_ns()
        self._results: list[GenerationResult] = []
        self._answer: Answer | None = None
        self._finish_reason: str | None = None
        self._chunks = 0
        self._first_chunk_at: float | None = None
        profile = ModelProfile(model_path=Path(llama.model_path))  # so that a model has the same name everywhere
        if outer is not None and not outer.is_call_of(operation, profile.model_name, may_be_alias=True):
            outer = None
        self._model_name = profile.model_name
        self._is_own = outer is None
        self._scope = outer or ModelCallSpan(
            tracer,
            operation,
            profile.provider.lower(),
            profile.model_name,
            request,
            start_time_ns=self._started_ns,
            instruments=instruments,
            logger_provider=STATE.logger_provider,
        )
        publish(self._scope.span, self)

    def phase(self) -> Phase | None:
        """See ``HasPhase``."""
        return engine_phase(self._results[-1]) if self._results else None

    def step(self) -> Step:
        """Makes the span current in each step, and this call visible to the methods inside."""
        return Step(self._context_over, self._scope)

    def _context_over(self, base: Context) -> Context:
        return context_api.set_value(_CALL_KEY, self, self._scope.context_over(base) if self._is_own else base)

    def generation(self) -> GenerationResult:
        """Returns the result for the next run of the engine in this call, which may have several."""
        result = GenerationResult()
        self._results.append(result)
        return result

    def set_input(self, write: Callable[[ModelContent], None]) -> None:
        """Keeps input and output, if the user has enabled content and the span is this call's own."""
        if self._is_own and self._scope.content is not None:
            self._answer = Answer()
            with _READING:
                write(self._scope.content)

    def read_answer(self, answer: object) -> None:
        """Reads a whole answer, or a piece of one."""
        with _READING:
            choice = _convert.choice(answer)
            if choice is not None:
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
                if self._answer is not None:
                    self._answer.add(choice)

    def saw(self, item: object) -> None:
        """Reads a piece of a streamed answer."""
        if self._chunks == 0:
            self._first_chunk_at = time.perf_counter()
        self._chunks += 1
        self.read_answer(item)

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the call with its outcome."""
        outcome = outcome_of(error)
        if outcome == "cancelled" and self._finish_reason is not None:
            outcome = "ok"  # the consumer has read the whole answer, but not the end of the iterator
        with _MEASURING:
            self._describe(outcome, error_type(error) if error is not None and outcome == "error" else None)
        if not self._is_own:
            return
        end_span(self._scope, None if outcome == "ok" else error)

    def _describe(self, outcome: Outcome, failure: str | None) -> None:
        scope, results, started_at = self._scope, self._results, self._started_at
        facts = {**total(results).facts(started_at), "model_name": self._model_name}
        for result in results:
            describe_context(scope, result)
        phases = (phase for result in results for phase in engine_phases(result, self._unix_ns))
        if not self._is_own:
            record_engine(scope, facts, results)
            add_to_outer(scope, facts, phases)
            return
        facts["finish_reason"] = self._finish_reason if outcome == "ok" else outcome
        facts["error_type"] = failure
        if self._answer is not None and scope.content is not None:
            scope.content.set_output(self._answer.messages(facts["finish_reason"]))
        first_chunk_s = None if self._first_chunk_at is None else self._first_chunk_at - started_at
        duration_s = time.perf_counter() - started_at
        record_generation(scope, facts, results, duration_s=duration_s, time_to_first_chunk_s=first_chunk_s)
        describe(scope, facts, phases, chunks=self._chunks or None, time_to_first_chunk_s=first_chunk_s)

    def _unix_ns(self, at: float) -> int:
        return self._started_ns + round((at - self._started_at) * 1e9)
