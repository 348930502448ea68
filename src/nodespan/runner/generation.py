"""One generation from the request to its end: what it waits for, what it measured, and the span that says so."""

from __future__ import annotations

import contextvars
import threading
import time
from typing import TYPE_CHECKING

from nodespan import semconv
from nodespan.engine.contract import Cancellation, GenerationResult
from nodespan.engine.measurement import Phase as Stretch
from nodespan.engine.measurement import describe, engine_phases, record_generation
from nodespan.engine.phase import engine_phase
from nodespan.errors import DeadlineExceededError
from nodespan.runner.chunk_queue import ChunkQueue
from nodespan.runner.generation_span import GenerationSpan
from nodespan.spans.content import message, text_part
from nodespan.spans.exceptions import error_type
from nodespan.spans.model_call import exemplar_context
from nodespan.spans.phases import Phase, publish
from nodespan.types import PipelineExecutionMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import Tracer

    from nodespan.engine.contract import Pipeline
    from nodespan.spans.instruments import Instruments
    from nodespan.types import CacheStatus, FinishReason, GenerationRequest, ModelProfile


class Generation:
    """Waits in a model's queue, runs on the model's thread, and ends once, whoever ends it.

    ``take``, ``loaded``, ``run``, ``release`` and ``fail`` belong to the model's thread; ``stop`` and ``drop`` may come
    from any.

    Args:
        priority: The higher goes first.
        deadline_s: Longest time from now to its end.

    Attributes:
        context: A copy of the caller's, to load and run in.
        pieces: The text on its way to the consumer.
        result: What the pipeline has measured so far.
        metadata: What it did and took; ``None`` until it ended.
        error: What the consumer is to see at the end.
        ahead: Returns the number of generations that come before it; takes no lock.
    """

    def __init__(
        self,
        request: GenerationRequest,
        profile: ModelProfile,
        pipeline_type: str,
        tracer: Tracer,
        instruments: Instruments,
        *,
        priority: int,
        deadline_s: float | None,
    ) -> None:
        self._entered_at = time.perf_counter()
        self._entered_ns = time.time_ns()
        self.request = request
        self.profile = profile
        self.priority = priority
        self.result = GenerationResult()
        self.pieces = ChunkQueue()
        self.metadata: PipelineExecutionMetadata | None = None
        self.error: BaseException | None = None
        self._pipeline_type = pipeline_type
        self._instruments = instruments
        self._cancellation = Cancellation()
        self._stopped_by: BaseException | None = None
        self._state = threading.RLock()  # a collected factory may stop it in the midst of stop()
        self._is_running = False
        self._has_ended = False
        self._cache_status: CacheStatus | None = None
        self._taken_at: float | None = None
        self._load_s: float | None = None
        self._first_piece_at: float | None = None
        self._pieces_put = 0
        self.owner = GenerationSpan(tracer, request, profile, self._entered_ns)
        self.ahead: Callable[[], int] | None = None
        publish(self.owner.span, self)
        self._said: list[str] | None = None if self.owner.content is None else []
        self.context = contextvars.copy_context()
        self._deadline = None if deadline_s is None else self._make_deadline(deadline_s)
        if self._deadline is not None:
            self._deadline.start()  # the last of all: from now on it may be stopped

    @property
    def is_unwanted(self) -> bool:
        """Whether it was stopped or dropped."""
        return self._cancellation.requested

    def phase(self) -> Phase | None:
        """What it does now; see ``HasPhase``."""
        if self._has_ended:
            return None
        if self._taken_at is None:
            return Phase("queued", self._entered_ns, position=None if self.ahead is None else self.ahead())
        if self._load_s is None and self._cache_status == "loaded":
            return Phase("loading", self._unix_ns(self._taken_at))
        return engine_phase(self.result)

    def take(self, cache_status: CacheStatus) -> None:
        """Says that the queue is behind it."""
        self._cache_status = cache_status
        self._taken_at = time.perf_counter()

    def loaded(self, error: BaseException | None = None) -> None:
        """Says that loading is behind it too, or with the error that it has failed."""
        assert self._taken_at is not None
        self._load_s = load_s = time.perf_counter() - self._taken_at
        labels = {
            semconv.REQUEST_MODEL: self.profile.model_name,
            semconv.ERROR_TYPE: None if error is None else error_type(error),
        }
        self._instruments.record(semconv.LOAD_DURATION, load_s, labels, exemplar_context(self.owner.span))

    def fail(self, error: BaseException) -> None:
        """Ends it: there is no model to run it."""
        self._end(error, completed=False)

    def run(self, pipeline: Pipeline) -> None:
        """Generates to the end. Never raises: what goes wrong is the consumer's to see, after ``release``."""
        with self._state:
            if self._has_ended:
                return
            self._is_running = True
        try:
            completed = self._put_pieces(pipeline)
        except BaseException as error:  # noqa: BLE001 raised again where the stream is read
            self._end(error, completed=False)
        else:
            self._end(None, completed=completed)

    def release(self) -> None:
        """Lets the consumer see the end of what has run; the model's thread is ready for the next."""
        if self._is_running:
            self.pieces.end()

    def orphan(self, error: BaseException) -> None:
        """Ends it in a forked child, where its thread does not exist and its span belongs to the parent process."""
        self._has_ended = True
        self.error = error
        self.drop()
        self.pieces.end()

    def stop(self, reason: BaseException | None = None) -> None:
        """Ends it before its time: within one token if it runs, at once if it does not.

        Args:
            reason: What the consumer is to see; ``None`` if the consumer itself has left.
        """
        with self._state:
            if self._has_ended:
                return
            if not self.is_unwanted:
                self._stopped_by = reason
            self.drop()
            if self._is_running:
                return  # its thread ends it
        self._end(None, completed=False)

    def drop(self) -> None:
        """Says that nobody will read the pieces. Takes no lock, for a destructor; the model's thread does the rest."""
        self._cancellation.request()
        self.pieces.release_writer()

    def _put_pieces(self, pipeline: Pipeline) -> bool:
        """Hands out the pieces while they are wanted; says whether the model came to an end by itself."""
        flag = self._cancellation.flag  # looked at once per piece: a property would cost more than the rest
        put, said = self.pieces.put, self._said
        pieces = pipeline.generate(self.request, self._cancellation, self.result)
        try:
            for piece in pieces:
                if not self._pieces_put:
                    self._first_piece_at = time.perf_counter()
                self._pieces_put += 1
                if said is not None:
                    said.append(piece)
                put(piece, flag)
                if flag[0]:
                    return False
        finally:
            pieces.close()
        return self.result.finish_reason is not None or not flag[0]

    def _end(self, error: BaseException | None, *, completed: bool) -> None:
        with self._state:
            if self._has_ended:
                return
            self._has_ended = True
        if self._deadline is not None:
            self._deadline.cancel()
        reason: FinishReason = "cancelled"
        if error is not None:
            reason = "error"
        elif completed:
            reason = self.result.finish_reason or "stop"
        self.error = error if error is not None or completed else self._stopped_by
        try:
            ended_at = time.perf_counter()
            self.metadata = self._measured(reason, ended_at)
            if self.owner.content is not None and self._said:
                self.owner.content.said([message("assistant", [text_part("".join(self._said))], reason)])
            self._close(self.metadata, error, ended_at)
        finally:
            if not self._is_running:
                self.pieces.end()

    def _measured(self, reason: FinishReason, ended_at: float) -> PipelineExecutionMetadata:
        return PipelineExecutionMetadata(
            model_name=self.profile.model_name,
            model_provider=self.profile.provider,
            pipeline_type=self._pipeline_type,
            cache_status=self._cache_status,
            queue_s=(self._taken_at or ended_at) - self._entered_at,
            load_s=self._load_s,
            finish_reason=reason,
            error_type=None if self.error is None else error_type(self.error),
            **self.result.facts(self._entered_at),
        )

    def _close(self, metadata: PipelineExecutionMetadata, error: BaseException | None, ended_at: float) -> None:
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
        )
        if error is not None:
            self.owner.fail(error)
        else:
            cancelled = metadata.finish_reason == "cancelled"
            self.owner.finish("cancelled" if cancelled else "ok", end_time_ns=self._unix_ns(ended_at))

    def _phases(self, metadata: PipelineExecutionMetadata) -> Iterator[Stretch]:
        """The stretches that took place."""
        for name, start, length_s in (
            (semconv.PIPELINE_QUEUE, self._entered_at, metadata.queue_s),
            (semconv.PIPELINE_LOAD, self._taken_at, metadata.load_s),
        ):
            if start is not None and length_s is not None:
                start_ns = self._unix_ns(start)
                yield Stretch(name, start_ns, start_ns + round(length_s * 1e9), {})
        yield from engine_phases(self.result, self._unix_ns)

    def _since_entry(self, at: float | None) -> float | None:
        return None if at is None else at - self._entered_at

    def _unix_ns(self, at: float) -> int:
        return self._entered_ns + round((at - self._entered_at) * 1e9)

    def _make_deadline(self, deadline_s: float) -> threading.Timer:
        expired = DeadlineExceededError(
            f"The generation was stopped: deadline_s={deadline_s} passed before it ended, waiting and loading included."
        )
        timer = threading.Timer(deadline_s, self.stop, (expired,))
        timer.daemon = True
        return timer
