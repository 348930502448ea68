"""One generation from the request to its end: waiting, running, stopped, ended."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from typing import TYPE_CHECKING, Final

from nodespan.engine.contract import Cancellation, GenerationResult
from nodespan.errors import DeadlineExceededError
from nodespan.runner.chunk_buffer import UNREAD_LIMIT_BYTES, ChunkBuffer
from nodespan.runner.event_loop import event_loop
from nodespan.runner.record import GenerationRecord
from nodespan.spans.guard import Guard
from nodespan.spans.log import warn
from nodespan.spans.phases import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer

    from nodespan.engine.contract import AsyncPipeline, Pipeline
    from nodespan.runner.record import Model
    from nodespan.spans.instruments import Instruments
    from nodespan.spans.phases import Phase
    from nodespan.types import CacheStatus, FinishReason, GenerationRequest, PipelineExecutionMetadata

_ENDING: Final = Guard("end a generation")
_CONTROL_FLOW: Final = (StopIteration, StopAsyncIteration, GeneratorExit, asyncio.CancelledError)
"""Raised in a reader, these would end its loop or its task without an error."""


class Generation:
    """Waits in a model's queue, runs on the model's thread or event loop, and ends exactly once.

    ``take``, ``loaded``, ``run``, ``arun``, ``release`` and ``fail`` belong to the model's lane; ``stop`` and ``drop``
    may be called from any thread.

    Args:
        priority: The highest is served first.
        deadline_s: Time limit from now to its end.

    Attributes:
        context: A copy of the caller's, to load and run in.
        pieces: Buffer of the text for the reader.
        result: The pipeline's measurements so far.
        metadata: The measurements of the generation; ``None`` until it has ended.
        error: The error to raise to the reader at the end.
        ahead: Returns the number of generations before it in the queue. Acquires no lock.
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
        self._record = GenerationRecord(request, model, tracer, instruments, priority)
        self.scope = self._record.scope
        self.request = request
        self.priority = priority
        self.result = GenerationResult()
        self.pieces = ChunkBuffer()
        self.metadata: PipelineExecutionMetadata | None = None
        self.error: BaseException | None = None
        self._model = model
        self._cancellation = Cancellation()
        self._stopped_by: BaseException | None = None
        self._state = threading.RLock()  # a collected factory may stop it inside stop()
        self._is_running = False
        self._has_ended = False
        self._has_overflowed = False
        self.ahead: Callable[[], int] = int
        publish(self.scope.span, self)
        self.context = contextvars.copy_context()
        self._cancel_deadline: Callable[[], None] | None = None
        if deadline_s is not None:  # last: from now on it may be stopped
            self._cancel_deadline = self._start_deadline(deadline_s)

    @property
    def is_unwanted(self) -> bool:
        """Whether it was stopped or dropped."""
        return self._cancellation.requested

    @property
    def is_running(self) -> bool:
        """Whether its pipeline was called."""
        return self._is_running

    def phase(self) -> Phase | None:
        """The current phase; see ``HasPhase``."""
        return None if self._has_ended else self._record.phase(self.result, self.ahead)

    def take(self, cache_status: CacheStatus) -> None:
        """Marks the end of its waiting."""
        self._record.take(cache_status)

    def loaded(self, error: BaseException | None = None) -> None:
        """Marks the end of the loading, or its failure."""
        self._record.loaded(error)

    def fail(self, error: BaseException) -> None:
        """Ends it with an error that was raised outside of its pipeline."""
        self._end(error, completed=False)

    def run(self, pipeline: Pipeline) -> None:
        """Generates to the end. An error of the pipeline is raised in the reader, after ``release``."""
        if not self._begin():
            return
        try:
            completed = self._put_pieces(pipeline)
        except BaseException as error:  # noqa: BLE001 raised again where the stream is read
            self._end(error, completed=False)
        else:
            self._end(None, completed=completed)

    async def arun(self, pipeline: AsyncPipeline) -> None:
        """The same for an asynchronous pipeline, in a separate task."""
        if not self._begin():
            return
        try:
            with self.scope.attached():
                completed = await self._aput_pieces(pipeline)
        except BaseException as error:  # noqa: BLE001 raised again where the stream is read
            self._end(error, completed=False)
        else:
            self._end(None, completed=completed)

    def release(self) -> None:
        """Marks the end for the reader of a generation that has run; its slot is free."""
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
        """Ends it early: within one token if it is running, else at once.

        Args:
            reason: The error to raise in the reader; ``None`` if the reader has closed the stream.
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
        """Requests its end. Acquires no lock, for destructors; the lane ends it."""
        self._cancellation.request()

    def _begin(self) -> bool:
        with self._state:
            if not self._has_ended:
                self._is_running = True
            return not self._has_ended

    def _put_pieces(self, pipeline: Pipeline) -> bool:
        """Passes the pieces to the reader until it closes the stream; returns whether the answer is complete."""
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
        """Passes one piece to the reader; returns whether the generation continues."""
        if not isinstance(piece, str):  # pyright: ignore[reportUnnecessaryIsInstance] a pipeline may yield anything
            raise TypeError(
                f"{self._model.pipeline_type} yielded a {type(piece).__name__}. A piece of an answer must be a str."
            )
        if piece:
            self._record.saw(piece)
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
        try:
            if self._cancel_deadline is not None:
                self._cancel_deadline()
            written, self.result = self.result, GenerationResult()
            with _ENDING:
                self.result = self._record.read(written)
            self.error = _raisable(error) if error is not None or completed else self._stopped_by
            self.metadata = self._record.metadata(self.result, self._reason(completed=completed), self.error)
            with _ENDING:
                self._record.close(self.metadata, self.result, self.error)
        finally:
            if not self._is_running:
                self.pieces.end()

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

    def _start_deadline(self, deadline_s: float) -> Callable[[], None]:
        expired = DeadlineExceededError(
            f"The generation was stopped: deadline_s={deadline_s} passed before it ended, waiting and loading included."
        )
        return event_loop().call_later(deadline_s, functools.partial(self.stop, expired))


def _raisable(error: BaseException | None) -> BaseException | None:
    """The error, replaced if it would end the reader's own loop or task."""
    if not isinstance(error, _CONTROL_FLOW):
        return error
    raised = RuntimeError(f"The pipeline raised {type(error).__name__}.")
    raised.__cause__ = error
    return raised
