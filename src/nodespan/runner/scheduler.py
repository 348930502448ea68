"""The scheduler of a factory: which request runs next, which model is loaded, and which one is freed for it."""

from __future__ import annotations

import contextlib
import functools
import heapq
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from nodespan import semconv
from nodespan.engine.measurement import is_of_llama_cpp
from nodespan.errors import ConfigurationError, PipelineClosedError
from nodespan.runner.event_loop import event_loop
from nodespan.runner.record import Model
from nodespan.spans.instruments import get_instruments
from nodespan.spans.log import warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider

    from nodespan.engine.contract import AsyncPipeline, Pipeline
    from nodespan.runner.generation import Generation
    from nodespan.types import ModelProfile

Step = Literal["run", "load", "evict", "unload", "leave"]
Rank = tuple[int, int]
"""Position in a queue, the smallest first: the negative priority, then the arrival."""

MAX_PRIORITIES: Final = 64
"""Priorities whose empty queues a lane still reports; the numbers are the caller's."""

_CLOSING_S: Final = 5.0
"""Longest time for an asynchronous pipeline to close its connections."""

_left_behind: Final[list[object]] = []
"""The parent's models and generations, kept in a forked child, where their destructors must not run."""


class Scheduler:
    """One monitor for all lanes of a factory.

    There is no dispatcher: after each change every lane's thread derives from the state alone whether it is its turn to
    load or to unload. All methods but ``close`` are called with ``changed`` held.

    Attributes:
        changed: Held while anything here or in a lane is read or written. Reentrant, because garbage collection may
            close an abandoned factory inside it.
        lanes: By profile type.
        evictions: Models that were freed to load another.
        meter_provider: Records their metrics; the global one at that time if ``None``.
    """

    def __init__(self, max_loaded: int, meter_provider: MeterProvider | None) -> None:
        self.changed = threading.Condition()
        self.lanes: dict[int, Lane] = {}
        self.evictions = 0
        self.meter_provider = meter_provider
        self.is_closed = False
        self._max_loaded = max_loaded
        self._holding: dict[Lane, None] = {}  # the least recently used first
        self._unloading: Lane | None = None
        self._arrivals = 0

    def submit(self, lane: Lane, generation: Generation) -> None:
        """Queues a generation in a lane."""
        if self.is_closed:
            raise closed()
        self._arrivals += 1
        lane.add(self._arrivals, generation)
        self.changed.notify_all()

    def holds(self, lane: Lane) -> bool:
        """Whether the lane's model is loaded, is being loaded, or is being freed."""
        return lane in self._holding

    def may_load(self, lane: Lane) -> bool:
        """Whether this lane's model may be loaded; if so, it counts as loaded from now on."""
        may = not self.is_closed and (not lane.takes_room or (self._has_room() and self._next_to_load()[1] is lane))
        if may:
            self._holding[lane] = None
        return may

    def must_unload(self, lane: Lane) -> bool:
        """Whether this idle lane must free its model for another; if so it counts as unloading."""
        if not self.is_closed:
            rival, _ = self._next_to_load()
            if rival is None or self._has_room() or self._unloading is not None:
                return False
            if self._least_recent_before(rival) is not lane:
                return False
            self._unloading = lane
            self.evictions += 1
        return True

    def settle(self, lane: Lane) -> None:
        """Notes that a step of the lane has ended, and whether its model is still there."""
        self._holding.pop(lane, None)
        if lane.is_loaded:
            self._holding[lane] = None
        if self._unloading is lane:
            self._unloading = None
        self.changed.notify_all()

    def close(self) -> list[threading.Thread]:
        """Ends running and waiting generations; each model's thread then frees it. Returns these threads."""
        with self.changed:
            self.is_closed = True
            lanes = list(self.lanes.values())
            generations = [generation for lane in lanes for generation in (*lane.waiting(), *lane.running)]
            threads = [lane.thread for lane in lanes if lane.thread is not None]
        for generation in generations:
            generation.stop(closed())
        with self.changed:
            self.changed.notify_all()
        return threads

    def forget(self) -> None:
        """Resets the state in a forked child, which has no threads of the lanes and cannot use the models without them.

        Their memory stays shared with the parent: freeing it would first copy it.
        """
        self.changed = threading.Condition()
        self._holding = {}
        self._unloading = None
        for lane in self.lanes.values():
            for generation in lane.forget():
                generation.orphan(
                    PipelineClosedError(
                        "The process was forked while this generation was running or waiting. Read its stream in the "
                        "process that requested it, or request it again."
                    )
                )

    def _has_room(self) -> bool:
        return sum(lane.takes_room for lane in self._holding) < self._max_loaded

    def _next_to_load(self) -> tuple[Rank | None, Lane | None]:
        """The first in rank of the requests that wait for a model to be loaded."""
        heads = [
            (head, lane)
            for lane in self.lanes.values()
            if lane.takes_room and lane not in self._holding and (head := lane.head())
        ]
        return min(heads, key=lambda pair: pair[0], default=(None, None))

    def _least_recent_before(self, rival: Rank) -> Lane | None:
        """The least recently used model among those that are idle and have no waiting request of a better rank."""
        for lane in self._holding:
            head = lane.head()
            is_idle = lane.takes_room and not lane.running and lane is not self._unloading
            if is_idle and (head is None or head > rival):
                return lane
        return None


class Lane:
    """Serves one profile: its queue, and the thread that loads its model, runs or starts each generation, and frees it.

    The thread exists while requests wait or run, or the model is loaded. A synchronous pipeline generates on it, one
    request at a time; an asynchronous one on the event loop, ``slots`` at once. A failed thread is replaced.

    Attributes:
        model: Its profile, the class of its pipeline, and where it is served.
        takes_room: Its model is loaded in this process, and so counts in ``max_loaded``.
        running: The generations in progress, loading included.
        thread: ``None`` while no request waits or runs and no model is loaded.
        model_bytes: Size of the model's tensors at its last request, if llama.cpp holds it here.
        state_bytes: Likewise of its context's state.
    """

    def __init__(
        self, scheduler: Scheduler, profile: ModelProfile, create: Callable[[ModelProfile], Pipeline | AsyncPipeline]
    ) -> None:
        server_of = getattr(create, "server_of", None)
        self.model: Final = Model(
            profile,
            str(getattr(create, "__name__", type(create).__name__)),
            None if server_of is None else server_of(profile),
        )
        self.takes_room: Final = not hasattr(create, "agenerate")
        self.running: list[Generation] = []
        self.thread: threading.Thread | None = None
        self.model_bytes: int | None = None
        self.state_bytes: int | None = None
        self._scheduler = scheduler
        self._create = create
        self._pipeline, self._is_async = cast("Pipeline | AsyncPipeline | None", None), False
        self._heap: list[tuple[Rank, Generation]] = []
        self._unread: list[Generation] = []
        self._priorities: set[int] = set()

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded. Acquires no lock."""
        return self._pipeline is not None

    def queue_lengths(self) -> dict[int, int]:
        """Number of waiting requests by priority; 0 for a priority that had some before. Acquires no lock."""
        lengths = dict.fromkeys(sorted(self._priorities), 0)
        for generation in self.waiting():
            lengths[generation.priority] = lengths.get(generation.priority, 0) + 1
        return lengths

    def add(self, arrival: int, generation: Generation) -> None:
        """Queues a generation; ``changed`` is held."""
        if self.thread is None:
            self._start_thread()
        rank = -generation.priority, arrival
        generation.ahead = functools.partial(_ahead_of, weakref.ref(self), rank)
        heapq.heappush(self._heap, (rank, generation))
        if len(self._priorities) < MAX_PRIORITIES:
            self._priorities.add(generation.priority)

    def head(self) -> Rank | None:
        """Rank of the next request; ``changed`` is held."""
        while self._heap and self._heap[0][1].is_unwanted:
            self._unread.append(heapq.heappop(self._heap)[1])
        return self._heap[0][0] if self._heap else None

    def waiting(self) -> list[Generation]:
        """The waiting requests, unordered. Acquires no lock."""
        return [generation for _, generation in self._heap.copy() if not generation.is_unwanted]

    def ahead_of(self, rank: Rank) -> int:
        """Number of requests ahead of a place in the queue. Acquires no lock."""
        waiting = (other for other, generation in self._heap.copy() if not generation.is_unwanted)
        return len(self.running) + sum(other < rank for other in waiting)

    def forget(self) -> list[Generation]:
        """Releases and returns its generations in a forked child, where its thread does not exist."""
        left = [generation for _, generation in self._heap] + self.running
        _left_behind.append((self._pipeline, left))
        self._heap, self._unread, self._pipeline, self.running, self.thread = [], [], None, [], None
        return left

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"nodespan {self.model.profile.model_name}", daemon=True)
        thread.start()  # it waits for ``changed``
        self.thread = thread

    def _work(self) -> None:
        try:
            while self._perform(*self._take_step()):
                pass
        finally:
            self._replace_thread()

    def _take_step(self) -> tuple[Step, Generation | None]:
        """Waits for the next step that this lane may perform."""
        generation = None
        changed = self._scheduler.changed
        with changed:
            step = self._next_step()
            while step is None:
                changed.wait()
                step = self._next_step()
            if step in {"run", "load"}:
                generation = heapq.heappop(self._heap)[1]
                self.running.append(generation)
            elif step == "leave":
                self.thread = None
            changed.notify_all()  # another lane's head may now be the first of all that wait to load
            unread, self._unread = self._unread, []
        for unwanted in unread:
            unwanted.stop()
        return step, generation

    def _next_step(self) -> Step | None:
        head = self.head()
        scheduler = self._scheduler
        if scheduler.holds(self):
            if not self.running and scheduler.must_unload(self):
                return "unload" if scheduler.is_closed else "evict"
            return "run" if head is not None and len(self.running) < self._slots() else None
        if head is None:
            return "leave"
        return "load" if scheduler.may_load(self) else None

    def _slots(self) -> int:
        slots: object = 1
        with contextlib.suppress(BaseException):  # a property may raise anything
            slots = getattr(self._pipeline, "slots", 1) if self._is_async else 1
        return slots if isinstance(slots, int) and slots > 1 else 1

    def _perform(self, step: Step, generation: Generation | None) -> bool:
        """Performs one step; returns whether the thread continues."""
        if step == "leave":
            return False
        if generation is not None:
            self._start(step, generation)
            return True
        self._free()
        if step == "evict":
            labels = {semconv.REQUEST_MODEL: self.model.profile.model_name}
            get_instruments(self._scheduler.meter_provider).record(semconv.EVICTIONS, 1, labels)
        with self._scheduler.changed:
            self._scheduler.settle(self)
        return True

    def _start(self, step: Step, generation: Generation) -> None:
        has_ended = True
        try:
            generation.take("hit" if step == "run" else "loaded")
            has_ended = generation.context.run(self._serve, generation)  # logs and spans there are the caller's
            if not has_ended:
                event_loop().spawn(functools.partial(self._aserve, generation), generation.context)
        except BaseException as error:  # also an exit of the pipeline: the reader has an end
            has_ended = True
            generation.fail(error)
            raise
        finally:
            if has_ended:
                self._done(generation)

    def _serve(self, generation: Generation) -> bool:
        """Loads the model if necessary; runs a synchronous pipeline's generation. Returns whether both are complete."""
        with generation.scope.attached():
            if self._pipeline is None:
                try:
                    self._pipeline, self._is_async = _checked(self._create(self.model.profile))
                except BaseException as error:  # noqa: BLE001 raised again where the stream is read
                    generation.loaded(error)
                    generation.fail(error)
                    return True
                generation.loaded()
            if self._is_async:
                return False
            generation.run(cast("Pipeline", self._pipeline))
            return True

    async def _aserve(self, generation: Generation) -> None:
        try:
            await generation.arun(cast("AsyncPipeline", self._pipeline))
        finally:
            self._done(generation)

    def _done(self, generation: Generation) -> None:
        """Frees the generation's slot, then marks the end for its reader, for whom the model is then idle."""
        if is_of_llama_cpp(generation.result):
            self.model_bytes, self.state_bytes = generation.result.model_bytes, generation.result.state_bytes
        with self._scheduler.changed:
            if generation in self.running:
                self.running.remove(generation)
            self._scheduler.settle(self)
        generation.release()

    def _free(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        try:
            if pipeline is None:
                return
            if self._is_async:
                event_loop().run(cast("AsyncPipeline", pipeline).aclose(), _CLOSING_S)
            else:
                cast("Pipeline", pipeline).close()
        except BaseException:  # noqa: BLE001 another model must be able to load
            warn("pipeline.close_failed", "Closing %s failed.", self.model.pipeline_type, exc_info=True)

    def _replace_thread(self) -> None:
        """At an error of the thread: ends its started generations, frees its model, and starts another thread."""
        with self._scheduler.changed:
            if self.thread is not threading.current_thread():
                return  # it has left in order
            started = [generation for generation in self.running if not generation.is_running]
        for generation in started:
            generation.fail(RuntimeError("The model's thread was ended by other code."))
            self._done(generation)
        if not self._is_async:  # a synchronous one belongs to this thread
            self._free()
        with self._scheduler.changed:
            self.thread = None
            self._scheduler.settle(self)
            if self._heap or self.is_loaded:
                with contextlib.suppress(RuntimeError):  # at interpreter exit no thread starts
                    self._start_thread()


def _ahead_of(lane: weakref.ref[Lane], rank: Rank) -> int:
    found = lane()
    return 0 if found is None else found.ahead_of(rank)


def _checked(pipeline: Any) -> tuple[Any, bool]:
    """The pipeline, and whether it is asynchronous."""
    is_async = hasattr(pipeline, "agenerate")
    if not (is_async or hasattr(pipeline, "generate")):
        raise ConfigurationError(
            f"PipelineFactory(create=...) returned a {type(pipeline).__name__}, which has neither generate() nor "
            "agenerate(). Return a nodespan.runner.Pipeline or AsyncPipeline."
        )
    return pipeline, is_async


def closed() -> PipelineClosedError:
    """The error of a request to a closed factory."""
    return PipelineClosedError("The PipelineFactory was closed. Keep it open while it is used, or create a new one.")
