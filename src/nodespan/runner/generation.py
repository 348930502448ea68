"""One generation from the request to its end: its waiting, its measurements, and its span."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nodespan import semconv
from nodespan.engine.contract import Cancellation, GenerationResult
from nodespan.engine.generation_span import GenerationSpan
from nodespan.engine.measurement import Phase, describe, engine_phases, record_generation
from nodespan.errors import DeadlineExceededError
from nodespan.runner.chunk_buffer import UNREAD_LIMIT_BYTES, ChunkBuffer
from nodespan.runner.event_loop import event_loop
from nodespan.spans.content import message, text_part, tool_call_part
from nodespan.spans.exceptions import error_type
from nodespan.spans.guard import Guard
from nodespan.spans.log import warn
from nodespan.spans.model_call import exemplar_context
from nodespan.types import PipelineExecutionMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import Tracer

    from nodespan.engine.contract import AsyncPipeline, Pipeline, Server
    from nodespan.spans.content import Part
    from nodespan.spans.instruments import Instruments
    from nodespan.types import CacheStatus, FinishReason, GenerationRequest, ModelProfile

_ENDING: Final = Guard("end a generation")
_READING: Final = "read a pipeline's measurements"
_CONTROL_FLOW: Final = (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)
"""Raised to a reader, these would end its loop or its task without an error."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the generations of its lane see it.

    Attributes:
        pipeline_type: Class of the pipeline.
        server: Where the model is served; ``None`` for this process.
        warned: Fields of ``GenerationResult`` whose impossible values have been logged.
    """

    profile: ModelProfile
    pipeline_type: str
    server: Server | None
    warned: set[str] = field(default_factory=set[str])


class Generation:
    """Waits in a model's queue, runs on the model's thread or event loop, and ends exactly once.

    ``take``, ``loaded``, ``run``, ``arun``, ``release`` and ``fail`` belong to the model's lane; ``stop`` and ``drop``
    may be called from any thread.

    Args:
        priority: The highest is served first.
        deadline_s: Longest time from now to its end.

    Attributes:
        context: A copy of the caller's, to load and run in.
        pieces: The text on its way to the reader.
        result: The pipeline's measurements so far.
        metadata: The facts of the generation; ``None`` until it ended.
        error: The error to raise to the reader at the end.
    """

    def __init__(
        self,
        request: GenerationRequest,
        model: Model,
        tracer: Tracer,
        instruments: Instruments,
        *,
        priority: int,
        deadline_s: float | None,
    ) -> None:
        self._entered_at = time.perf_counter()
        self._entered_ns = time.time_ns()
        self.request = request
        self.priority = priority
        self.result = GenerationResult()
        self.pieces = ChunkBuffer()
        self.metadata: PipelineExecutionMetadata | None = None
        self.error: BaseException | None = None
        self._model = model
        self._instruments = instruments
        self._cancellation = Cancellation()
        self._stopped_by: BaseException | None = None
        self._state = threading.RLock()  # a collected factory may stop it inside stop()
        self._is_running = False
        self._has_ended = False
        self._has_overflowed = False
        self._cache_status: CacheStatus | None = None
        self._taken_at: float | None = None
        self._load_s: float | None = None
        self._first_piece_at: float | None = None
        self._pieces_put = 0
        self.owner = GenerationSpan(tracer, request, model.profile, self._entered_ns, model.server)
        self._said: list[str] | None = None if self.owner.content is None else []
        self.context = contextvars.copy_context()
        self._cancel_deadline: Callable[[], None] | None = None
        if deadline_s is not None:  # the last of all: from now on it may be stopped
            self._cancel_deadline = self._start_deadline(deadline_s)

    @property
    def is_unwanted(self) -> bool:
        """Whether it was stopped or dropped."""
        return self._cancellation.requested

    @property
    def is_running(self) -> bool:
        """Whether its pipeline was called."""
        return self._is_running

    def take(self, cache_status: CacheStatus) -> None:
        """Marks the end of its waiting."""
        self._cache_status = cache_status
        self._taken_at = time.perf_counter()

    def loaded(self, error: BaseException | None = None) -> None:
        """Marks the end of the loading, or its failure."""
        assert self._taken_at is not None
        self._load_s = load_s = time.perf_counter() - self._taken_at
        labels = {
            semconv.REQUEST_MODEL: self._model.profile.model_name,
            semconv.ERROR_TYPE: None if error is None else error_type(error),
        }
        self._instruments.record(semconv.LOAD_DURATION, load_s, labels, exemplar_context(self.owner.span))

    def fail(self, error: BaseException) -> None:
        """Ends it with an error that its pipeline has not raised."""
        self._end(error, completed=False)

    def run(self, pipeline: Pipeline) -> None:
        """Generates to the end. An error of the pipeline is for the reader, after ``release``."""
        if not self._begin():
            return
        try:
            completed = self._put_pieces(pipeline)
        except BaseException as error:  # noqa: BLE001 raised again where the stream is read
            self._end(error, completed=False)
        else:
            self._end(None, completed=completed)

    async def arun(self, pipeline: AsyncPipeline) -> None:
        """The same in the asynchronous form, in a task of its own."""
        if not self._begin():
            return
        try:
            with self.owner.attached():
                completed = await self._aput_pieces(pipeline)
        except BaseException as error:  # noqa: BLE001 raised again where the stream is read
            self._end(error, completed=False)
        else:
            self._end(None, completed=completed)

    def release(self) -> None:
        """Gives the reader the end of what has run; the lane is ready for the next."""
        if self._is_running:
            self.pieces.end()

    def orphan(self, error: BaseException) -> None:
        """Ends it in a forked child, where its thread does not exist and its span belongs to the parent process."""
        self._has_ended = True
        self._cancellation.wake = None  # the event loop is the parent's
        self.error = error
        self.drop()
        self.pieces.end()

    def stop(self, reason: BaseException | None = None) -> None:
        """Ends it early: within one token if it runs, at once if it does not.

        Args:
            reason: The error to raise to the reader; ``None`` if the reader itself has left.
        """
        with self._state:
            if self._has_ended:
                return
            if not self.is_unwanted:
                self._stopped_by = reason
            self.drop()
            if self._is_running:
                return  # its lane ends it
        self._end(None, completed=False)

    def drop(self) -> None:
        """Marks its text as unwanted. Takes no lock, for a destructor; the lane ends it."""
        self._cancellation.request()

    def _begin(self) -> bool:
        with self._state:
            if not self._has_ended:
                self._is_running = True
            return not self._has_ended

    def _put_pieces(self, pipeline: Pipeline) -> bool:
        """Hands out the pieces while they are wanted; returns whether the answer is complete."""
        is_exhausted = False
        pieces = pipeline.generate(self.request, self._cancellation, self.result)
        try:
            for piece in pieces:
                if not self._put(piece):
                    break
            else:
                is_exhausted = True
        finally:
            if (close := getattr(pieces, "close", None)) is not None:
                close()
        return self._is_complete(is_exhausted=is_exhausted)

    async def _aput_pieces(self, pipeline: AsyncPipeline) -> bool:
        is_exhausted = False
        task = asyncio.current_task()
        assert task is not None
        pieces = pipeline.agenerate(self.request, self._cancellation, self.result)
        self._cancellation.wake = functools.partial(self._wake_task, asyncio.get_running_loop(), task)
        try:
            if not self.is_unwanted:  # requested before there was a wake
                async for piece in pieces:
                    if not self._put(piece):
                        break
                else:
                    is_exhausted = True
        except asyncio.CancelledError:
            if not self.is_unwanted:
                raise
            task.uncancel()
        finally:
            self._cancellation.wake = None  # from now on the cleanup is not interrupted
            if (close := getattr(pieces, "aclose", None)) is not None:
                await close()
        return self._is_complete(is_exhausted=is_exhausted)

    def _wake_task(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        """Cancels the task, once; a destructor may call it."""

        def cancel() -> None:
            if self._cancellation.wake is not None:
                self._cancellation.wake = None
                task.cancel()

        loop.call_soon_threadsafe(cancel, context=contextvars.Context())

    def _put(self, piece: str) -> bool:
        """Hands out one piece; returns whether another is wanted."""
        if not isinstance(piece, str):  # pyright: ignore[reportUnnecessaryIsInstance] a pipeline may yield anything
            raise TypeError(
                f"{self._model.pipeline_type} yielded a {type(piece).__name__}. A piece of an answer is a str."
            )
        if piece:
            if not self._pieces_put:
                self._first_piece_at = time.perf_counter()
            self._pieces_put += 1
            if self._said is not None:
                self._said.append(piece)
            if not self.pieces.put(piece):
                self._has_overflowed = True
                return False
        return not self._cancellation.flag[0]

    def _is_complete(self, *, is_exhausted: bool) -> bool:
        if self._has_overflowed:
            return True
        return is_exhausted and (self.result.finish_reason is not None or not self.is_unwanted)

    def _end(self, error: BaseException | None, *, completed: bool) -> None:
        with self._state:
            if self._has_ended:
                return
            self._has_ended = True
        ended_at = time.perf_counter()
        try:
            if self._cancel_deadline is not None:
                self._cancel_deadline()
            with _ENDING:
                self._read_result()
            self.error = _raisable(error) if error is not None or completed else self._stopped_by
            reason = self._reason(completed=completed)
            self.metadata = self._measured(reason, ended_at)
            with _ENDING:
                self._close(self.metadata, ended_at)
        finally:
            if not self._is_running:
                self.pieces.end()

    def _read_result(self) -> None:
        """Takes over the pipeline's measurements, without those that cannot be."""
        self.result, bad = self.result.checked(self._entered_at)
        for name in bad:
            self._instruments.record(
                semconv.TELEMETRY_ERRORS, 1, {semconv.TELEMETRY_ERROR_KIND: _READING}, exemplar_context(self.owner.span)
            )
            if name not in self._model.warned:
                self._model.warned.add(name)
                warn(
                    "pipeline.bad_measurement",
                    "%s wrote a value into GenerationResult.%s that cannot be; it is left out. Logged once.",
                    self._model.pipeline_type,
                    name,
                )

    def _reason(self, *, completed: bool) -> FinishReason:
        if self.error is not None:
            return "error"
        if self._has_overflowed:
            warn(
                "stream.unread_limit",
                "A stream of %s was ended: more than %d bytes of its text were not read.",
                self._model.profile.model_name,
                UNREAD_LIMIT_BYTES,
            )
            return "length"
        return self.result.finish_reason or "stop" if completed else "cancelled"

    def _measured(self, reason: FinishReason, ended_at: float) -> PipelineExecutionMetadata:
        return PipelineExecutionMetadata(
            model_name=self._model.profile.model_name,
            model_provider=self._model.profile.provider,
            pipeline_type=self._model.pipeline_type,
            cache_status=self._cache_status,
            queue_s=(self._taken_at or ended_at) - self._entered_at,
            load_s=self._load_s,
            finish_reason=reason,
            error_type=None if self.error is None else error_type(self.error),
            **self.result.facts(self._entered_at),
        )

    def _close(self, metadata: PipelineExecutionMetadata, ended_at: float) -> None:
        """Records the metrics and ends the span."""
        if self.owner.content is not None and (parts := self._answer_parts()):
            self.owner.content.said([message("assistant", parts, metadata.finish_reason)])
        time_to_first_chunk_s = self._since_entry(self._first_piece_at)
        describe(
            self.owner,
            vars(metadata),
            self._phases(metadata),
            priority=self.priority,
            chunks=self._pieces_put,
            time_to_first_chunk_s=time_to_first_chunk_s,
        )
        record_generation(
            self._instruments,
            self.owner,
            vars(metadata),
            (self.result,),
            duration_s=ended_at - self._entered_at,
            time_to_first_chunk_s=time_to_first_chunk_s,
            priority=self.priority,
            in_process=self._model.server is None,
        )
        if self.error is not None:
            self.owner.fail(self.error)
        else:
            cancelled = metadata.finish_reason == "cancelled"
            self.owner.finish("cancelled" if cancelled else "ok", end_time_ns=self._unix_ns(ended_at))

    def _answer_parts(self) -> list[Part]:
        text = "".join(self._said or ())
        calls = [tool_call_part(call.id, call.name, call.arguments) for call in self.result.tool_calls]
        return [text_part(text), *calls] if text else calls

    def _phases(self, metadata: PipelineExecutionMetadata) -> Iterator[Phase]:
        """The stretches that took place."""
        for name, start, length_s in (
            (semconv.PIPELINE_QUEUE, self._entered_at, metadata.queue_s),
            (semconv.PIPELINE_LOAD, self._taken_at, metadata.load_s),
        ):
            if start is not None and length_s is not None:
                start_ns = self._unix_ns(start)
                yield Phase(name, start_ns, start_ns + round(length_s * 1e9), {})
        yield from engine_phases(self.result, self._unix_ns)

    def _since_entry(self, at: float | None) -> float | None:
        return None if at is None else at - self._entered_at

    def _unix_ns(self, at: float) -> int:
        return self._entered_ns + round((at - self._entered_at) * 1e9)

    def _start_deadline(self, deadline_s: float) -> Callable[[], None]:
        expired = DeadlineExceededError(
            f"The generation was stopped: deadline_s={deadline_s} passed before it ended, waiting and loading included."
        )
        return event_loop().call_later(deadline_s, functools.partial(self.stop, expired))


def _raisable(error: BaseException | None) -> BaseException | None:
    """The error, or one in its place where the reader's own loop or task would end by it."""
    if not isinstance(error, _CONTROL_FLOW):
        return error
    raised = RuntimeError(f"The pipeline raised {type(error).__name__}.")
    raised.__cause__ = error
    return raised
