"""The record of one generation: its progress, and at its end its metadata, metrics and spans."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nodespan import semconv
from nodespan.engine.generation_span import GenerationSpan
from nodespan.engine.measurement import Phase, describe, engine_phases, record_generation
from nodespan.engine.phase import engine_phase
from nodespan.engine.prefix import describe_context
from nodespan.errors import ServerError
from nodespan.spans import phases
from nodespan.spans.exceptions import error_type
from nodespan.spans.instruments import exemplar_context
from nodespan.spans.log import warn
from nodespan.spans.message_parts import message, text_part, tool_call_part
from nodespan.types import PipelineExecutionMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import Tracer

    from nodespan.engine.contract import GenerationResult, Server
    from nodespan.spans.instruments import Instruments
    from nodespan.spans.message_parts import Part
    from nodespan.types import CacheStatus, FinishReason, GenerationRequest, ModelProfile

_READING: Final = "read a pipeline's measurements"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its generations use it.

    Attributes:
        pipeline_type: Class of the pipeline.
        server: Where the model is served; ``None`` for this process.
        warned: Fields of ``GenerationResult`` whose impossible values have been logged.
    """

    profile: ModelProfile
    pipeline_type: str
    server: Server | None
    warned: set[str] = field(default_factory=set[str])


class GenerationRecord:
    """Owns the span of a generation. One thread writes at a time.

    Attributes:
        scope: The span.
        entered_at: ``time.perf_counter()`` at the request.
    """

    def __init__(
        self, request: GenerationRequest, model: Model, tracer: Tracer, instruments: Instruments, priority: int
    ) -> None:
        self.entered_at = time.perf_counter()
        self._entered_ns = time.time_ns()
        self._model = model
        self._priority = priority
        self._cache_status: CacheStatus | None = None
        self._taken_at: float | None = None
        self._load_s: float | None = None
        self._first_piece_at: float | None = None
        self._pieces = 0
        self.scope = GenerationSpan(tracer, request, model.profile, self._entered_ns, model.server, instruments)
        self._texts: list[str] | None = None if self.scope.content is None else []

    def take(self, cache_status: CacheStatus) -> None:
        """Marks the end of the waiting."""
        self._cache_status = cache_status
        self._taken_at = time.perf_counter()

    def loaded(self, error: BaseException | None) -> None:
        """Marks the end of the loading, or its failure."""
        assert self._taken_at is not None
        self._load_s = load_s = time.perf_counter() - self._taken_at
        labels = {
            semconv.REQUEST_MODEL: self._model.profile.model_name,
            semconv.ERROR_TYPE: None if error is None else error_type(error),
        }
        self.scope.instruments.record(semconv.LOAD_DURATION, load_s, labels, exemplar_context(self.scope.span))

    def phase(self, result: GenerationResult, ahead: Callable[[], int]) -> phases.Phase | None:
        """The current phase of the generation.

        Args:
            result: The pipeline's measurements so far.
            ahead: Returns the number of generations before it in the queue.
        """
        if self._taken_at is None:
            return phases.Phase("queued", self._entered_ns, position=ahead())
        if self._load_s is None and self._cache_status == "loaded":
            return phases.Phase("loading", self._unix_ns(self._taken_at))
        return engine_phase(result)

    def saw(self, piece: str) -> None:
        """Counts a piece of the answer."""
        if not self._pieces:
            self._first_piece_at = time.perf_counter()
        self._pieces += 1
        if self._texts is not None:
            self._texts.append(piece)

    def read(self, result: GenerationResult) -> GenerationResult:
        """The pipeline's measurements without impossible values, which are counted and logged."""
        checked, bad = result.checked(self.entered_at)
        for name in bad:
            labels = {semconv.TELEMETRY_ERROR_KIND: _READING}
            self.scope.instruments.record(semconv.TELEMETRY_ERRORS, 1, labels, exemplar_context(self.scope.span))
            if name not in self._model.warned:
                self._model.warned.add(name)
                warn(
                    "pipeline.bad_measurement",
                    "%s wrote an impossible value into GenerationResult.%s, which is ignored (logged once per field).",
                    self._model.pipeline_type,
                    name,
                )
        return checked

    def metadata(
        self, result: GenerationResult, reason: FinishReason, error: BaseException | None
    ) -> PipelineExecutionMetadata:
        """The measurements of the generation, which ends now."""
        self._ended_at = time.perf_counter()
        return PipelineExecutionMetadata(
            model_name=self._model.profile.model_name,
            model_provider=result.provider or self._model.profile.provider,
            pipeline_type=self._model.pipeline_type,
            cache_status=self._cache_status,
            queue_s=(self._taken_at or self._ended_at) - self.entered_at,
            load_s=self._load_s,
            finish_reason=reason,
            error_type=None if error is None else _error_type(error),
            **result.facts(self.entered_at),
        )

    def close(self, metadata: PipelineExecutionMetadata, result: GenerationResult, error: BaseException | None) -> None:
        """Records the metrics and ends the span."""
        try:
            if self.scope.content is not None and (parts := self._answer_parts(result)):
                self.scope.content.set_output([message("assistant", parts, metadata.finish_reason)])
            first_chunk_s = None if self._first_piece_at is None else self._first_piece_at - self.entered_at
            describe(
                self.scope,
                vars(metadata),
                self._phases(metadata, result),
                priority=self._priority,
                chunks=self._pieces,
                time_to_first_chunk_s=first_chunk_s,
            )
            self.scope.provider = metadata.model_provider.lower()
            self.scope.measured.update(result.attributes)
            describe_context(self.scope, result)
            self.scope.measured[semconv.PROVIDER_NAME] = self.scope.provider
            if isinstance(error, ServerError):
                self.scope.measured[semconv.ERROR_TYPE] = metadata.error_type
            record_generation(
                self.scope,
                vars(metadata),
                (result,),
                duration_s=self._ended_at - self.entered_at,
                time_to_first_chunk_s=first_chunk_s,
                priority=self._priority,
                in_process=self._model.server is None,
            )
        finally:
            if error is not None:
                self.scope.fail(error)
            else:
                cancelled = metadata.finish_reason == "cancelled"
                self.scope.finish("cancelled" if cancelled else "ok", end_time_ns=self._unix_ns(self._ended_at))

    def _answer_parts(self, result: GenerationResult) -> list[Part]:
        text = "".join(self._texts or ())
        calls = [tool_call_part(call.id, call.name, call.arguments) for call in result.tool_calls]
        return [text_part(text), *calls] if text else calls

    def _phases(self, metadata: PipelineExecutionMetadata, result: GenerationResult) -> Iterator[Phase]:
        """The phases that took place."""
        for name, start, length_s in (
            (semconv.PIPELINE_QUEUE, self.entered_at, metadata.queue_s),
            (semconv.PIPELINE_LOAD, self._taken_at, metadata.load_s),
        ):
            if start is not None and length_s is not None:
                start_ns = self._unix_ns(start)
                yield Phase(name, start_ns, start_ns + round(length_s * 1e9), {})
        yield from engine_phases(result, self._unix_ns)

    def _unix_ns(self, at: float) -> int:
        return self._entered_ns + round((at - self.entered_at) * 1e9)


def _error_type(error: BaseException) -> str:
    """The HTTP status of a server's error, as the conventions define it, else the class."""
    status = error.status if isinstance(error, ServerError) else None
    return error_type(error) if status is None else str(status)
