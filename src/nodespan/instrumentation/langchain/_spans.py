"""LangChain's spans: a model call, a tool call, a search."""

from __future__ import annotations

import re
from collections.abc import Sized
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult
from opentelemetry.trace import SpanKind, StatusCode

from nodespan import semconv
from nodespan.instrumentation._outcome import end_span, outcome_of
from nodespan.instrumentation._state import InstrumentationState, Surroundings
from nodespan.instrumentation.langchain import _convert, _messages
from nodespan.spans.attributes import to_attributes
from nodespan.spans.content import set_content
from nodespan.spans.directory import span_id_of
from nodespan.spans.exceptions import error_type
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import exemplar_context
from nodespan.spans.model_call import ModelCallSpan, request_attributes
from nodespan.spans.scope import SpanScope

try:  # LangChain's own ids, which sort by time
    from langchain_core.utils.uuid import uuid7 as new_run_id
except ImportError:  # langchain-core before 1.1
    new_run_id = uuid4

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from nodespan.spans.scope import Outcome

_DESCRIBING: Final = Guard("describe a LangChain call")
_OTHER: Final = "_OTHER"
"""The conventions' value for an unknown class, as of an error that LangChain made a text of, or an unknown tool."""
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


STATE: Final = InstrumentationState()


def choose_run_ids(scope: SpanScope, given: object, count: int = 1) -> list[UUID] | None:
    """Run ids by which the events of a call lead to its span, chosen before callbacks receive them.

    ``None`` leaves the choice to LangChain, if no reader uses the run directory.
    """
    runs = scope.directory.runs if scope.directory is not None else None
    if runs is None or isinstance(given, list) or (span_id := span_id_of(scope.span)) is None:
        return None
    chosen = [cast("UUID", given)] if given is not None and count == 1 else [new_run_id() for _ in range(count)]
    runs.update((str(run_id), span_id) for run_id in chosen)
    return chosen


class Entry(IntEnum):
    """Methods of a model that open its call, outermost first."""

    STREAM = 0
    GENERATE = 1
    ONE_OF_SEVERAL = 2
    EVENTS = 3
    EMBED = 4


class ModelCall(ModelCallSpan):
    """The span of one call of a chat model, an LLM or an embedding model.

    Attributes:
        from_cache: The answer is from LangChain's cache.
        accumulator: LangChain's own accumulator of a streamed message.
    """

    __slots__ = ("_chunks", "_entry", "_facts", "_first_chunk_s", "_model", "accumulator", "from_cache")

    def __init__(
        self,
        here: Surroundings,
        operation: str,
        model: object,
        identity: _convert.Identity,
        kwargs: Mapping[str, Any],
        entry: Entry,
    ) -> None:
        self._model: object = model
        self._entry = entry
        self.from_cache = False
        self.accumulator: object = None
        self._chunks: list[object] = []
        self._facts: dict[str, Any] = {}
        self._first_chunk_s: float | None = None
        super().__init__(
            here.tracer,
            operation,
            identity.provider,
            identity.model,
            _request(model, identity, kwargs),
            kind=_convert.kind_of(model),
            parent=here.context,
            instruments=here.instruments,
            logger_provider=STATE.logger_provider,
            around=here.around,
        )

    def continues_in(self, model: object, entry: Entry) -> bool:
        """Whether a method called inside this call is part of it: a later method of the same model.

        Any other is a new call: of another model, or of this one by its own ``_generate``.
        """
        if model is not self._model or (entry <= self._entry and entry is not Entry.EMBED):
            return False
        self._entry = entry
        return True

    def saw(self, item: object) -> None:
        """Keeps the needed chunks of a streamed answer: all of them only for content."""
        self.streams()
        if self.accumulator is not None:
            if getattr(self.accumulator, "done", False):  # the reader may stop here, before the end of the stream
                self.leave()
        elif self.content is not None or not self._chunks or _reports(item):
            self._chunks.append(item)

    @property
    def has_streamed(self) -> bool:
        """Whether a piece of the answer has arrived."""
        return self._first_chunk_s is not None

    def streams(self) -> None:
        """Records the time of the first piece of the answer."""
        if self._first_chunk_s is None:
            self._first_chunk_s = self.duration_s

    def returned(self, result: Any) -> None:
        """Ends the span with the result of the call: an LLMResult, a ChatResult or vectors."""
        if isinstance(result, LLMResult):
            self._answered([one for prompt in result.generations for one in prompt], result.llm_output)
        elif isinstance(result, ChatResult):
            self._answered(result.generations, result.llm_output)
        elif isinstance(result, list) and result:
            vectors = cast("list[Sized | float]", result)
            first = vectors[0]
            with _DESCRIBING:
                self._facts = {semconv.EMBEDDINGS_DIMENSION: len(first if isinstance(first, Sized) else vectors)}
        self.leave()

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the span as the call ended."""
        if not self.is_open:
            return
        if (self._chunks or self.accumulator is not None) and (message := self._streamed_message()) is not None:
            self._answered([message])
        self._chunks.clear()
        if self._first_chunk_s is not None:
            self._facts |= {semconv.REQUEST_STREAM: True, semconv.RESPONSE_TIME_TO_FIRST_CHUNK: self._first_chunk_s}
        self._record_call(error)
        self._model = None
        if error is None:
            self.finish(attributes=to_attributes(self._facts))
        else:
            self.set(self._facts)
            end_span(self, error)

    def _answered(
        self, generations: Sequence[_convert.Generation], llm_output: Mapping[str, Any] | None = None
    ) -> None:
        """Keeps the facts of the answer."""
        try:
            if self.content is not None:
                self.content.set_output(_messages.answers(generations))
            self._facts = _convert.answer_attributes(generations, llm_output)
            if self.from_cache:
                self._facts = {key: value for key, value in self._facts.items() if ".usage." not in key}
                self._facts[semconv.RESPONSE_CACHED] = True
        except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
            _DESCRIBING.failed(error)

    def _record_call(self, error: BaseException | None) -> None:
        """The call's metrics, with the facts that its span has."""
        outcome = outcome_of(error)
        facts = {**self._facts, **self.measured} if self.measured else self._facts
        [reason] = (facts.get(semconv.RESPONSE_FINISH_REASONS) or [None])[:1]
        self.record(
            duration_s=self.duration_s,
            time_to_first_chunk_s=self._first_chunk_s,
            input_tokens=facts.get(semconv.USAGE_INPUT_TOKENS),
            output_tokens=facts.get(semconv.USAGE_OUTPUT_TOKENS),
            finish_reason=reason if outcome == "ok" else outcome,
            error_type=error_type(error) if outcome == "error" and error is not None else None,
        )

    def _streamed_message(self) -> Generation | None:
        """The received part of a streamed answer; for an LLM only its text."""
        with _DESCRIBING:
            if isinstance(message := getattr(self.accumulator, "output_message", None), AIMessage):
                return ChatGeneration(message=message)
            chunks = [chunk for chunk in self._chunks if isinstance(chunk, AIMessageChunk)]
            if chunks:
                first, *others = chunks
                if self.content is None and others and not _reports(first) and first.id == others[0].id:
                    first, *others = others  # the first has text alone, and merging is slow
                return ChatGeneration(message=first + others if others else first)
            if self.content is not None and self._chunks:
                return Generation(text="".join(map(str, self._chunks)))
        return None


def _reports(chunk: object) -> bool:
    """Whether a chunk has usage or metadata of the answer; most have only text."""
    return bool(getattr(chunk, "usage_metadata", None) or getattr(chunk, "response_metadata", None))


def _request(model: object, identity: _convert.Identity, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Attributes of the request; none if a model's own fields cannot be read."""
    try:
        sampling = _convert.sampling_of(model, identity.parameters, kwargs)
        return {**_convert.server_of(model), **request_attributes(sampling)}
    except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
        _DESCRIBING.failed(error)
        return {}


class ToolCall(SpanScope):
    """The span ``execute_tool {tool}``: one call of a tool.

    Args:
        is_missing: The tool does not exist. Its name is from the model and unbounded: it is not a label of a metric,
            and part of the span's name only if it has the form of a tool's name.
    """

    __slots__ = ("_label",)

    def __init__(
        self, here: Surroundings, name: str, call_id: str | None, arguments: object, *, is_missing: bool = False
    ) -> None:
        self._label = _OTHER if is_missing else name
        is_named = not is_missing or _TOOL_NAME.fullmatch(name) is not None
        super().__init__(
            here.tracer,
            f"{semconv.EXECUTE_TOOL} {name}" if is_named else semconv.EXECUTE_TOOL,
            {
                semconv.OPERATION_NAME: semconv.EXECUTE_TOOL,
                semconv.TOOL_NAME: name,
                semconv.TOOL_TYPE: "function",
                semconv.TOOL_CALL_ID: call_id,
            },
            parent=here.context,
            instruments=here.instruments,
            around=here.around,
        )
        set_content(self.span, {semconv.TOOL_CALL_ARGUMENTS: arguments})

    def returned(self, output: object) -> None:
        """Ends the span with the result of the tool.

        An error that LangChain converted to an answer (``handle_tool_error``) is an error of the tool.
        """
        set_content(
            self.span, {semconv.TOOL_CALL_RESULT: output.content if isinstance(output, ToolMessage) else output}
        )
        if isinstance(output, ToolMessage) and output.status == "error":
            if self.span.is_recording():
                with _DESCRIBING:
                    self.span.set_attribute(semconv.ERROR_TYPE, _OTHER)
                    self.span.set_status(StatusCode.ERROR)
            self.finish("error")
            self._record("error", _OTHER)
        else:
            self.leave()

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the span as the call ended."""
        outcome = outcome_of(error)
        end_span(self, error)
        self._record(outcome, error_type(error) if outcome == "error" and error is not None else None)

    def _record(self, outcome: Outcome, kind: str | None) -> None:
        self.instruments.record(
            semconv.TOOL_DURATION,
            self.took_s,
            {semconv.TOOL_NAME: self._label, semconv.STATUS: outcome, semconv.ERROR_TYPE: kind},
            exemplar_context(self.span),
        )


class Retrieval(SpanScope):
    """The span ``retrieval {what is searched}``: one search for documents."""

    __slots__ = ()

    def __init__(self, here: Surroundings, retriever: object, query: object) -> None:
        name = _convert.retriever_name(retriever)
        kind = _convert.kind_of(retriever)
        super().__init__(
            here.tracer,
            f"{semconv.RETRIEVAL} {name}",
            {semconv.OPERATION_NAME: semconv.RETRIEVAL, semconv.DATA_SOURCE_ID: name},
            kind=kind,
            parent=here.context,
            instruments=here.instruments,
            around=here.around,
        )
        if kind is SpanKind.CLIENT:
            self.set(_convert.server_of(retriever))
        set_content(self.span, {semconv.RETRIEVAL_QUERY: query})

    def returned(self, documents: Sequence[object]) -> None:
        """Ends the span with the found documents."""
        set_content(self.span, {semconv.RETRIEVAL_DOCUMENTS: documents})
        self.leave()

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the span with the outcome of the search."""
        end_span(self, error)


Call = ModelCall | ToolCall | Retrieval
