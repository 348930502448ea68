"""A model's lane: the queue in front of it, and the thread that loads it, asks it and frees it."""

from __future__ import annotations

import functools
import heapq
import threading
import weakref
from typing import TYPE_CHECKING, Final, Literal

from nodespan import semconv
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import get_instruments

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodespan.engine.contract import Pipeline
    from nodespan.runner.generation import Generation
    from nodespan.runner.pool import Pool
    from nodespan.types import ModelProfile

Step = Literal["run", "load", "evict", "unload", "leave"]
Rank = tuple[int, int]
"""Place in a queue, the smaller first: minus the priority, then the arrival."""

_FREEING: Final = Guard("free a model")

_MAX_PRIORITIES: Final = 64
"""Priorities of whose empty queues a lane still tells; it is the caller who chooses the numbers."""

_left_behind: Final[list[object]] = []
"""The parent process's models and generations, kept in a forked child: freeing one would run, or end its span twice."""


class Lane:
    """Serves one profile, one generation at a time.

    Its thread lives while it has something to do or a model to hold. Whatever others read or write is read and written
    under ``pool.changed``; the model is the thread's alone.

    Attributes:
        running: The generation that the thread is busy with, loading included.
        thread: ``None`` while there is nothing to do.
        model_bytes: Size of the model's tensors when it was last asked, if its pipeline knows.
        state_bytes: Likewise of its context's state.
    """

    def __init__(self, pool: Pool, profile: ModelProfile, create: Callable[[ModelProfile], Pipeline]) -> None:
        self.profile = profile
        self.running: Generation | None = None
        self.thread: threading.Thread | None = None
        self.model_bytes: int | None = None
        self.state_bytes: int | None = None
        self._pool = pool
        self._create = create
        self._pipeline: Pipeline | None = None
        self._heap: list[tuple[Rank, Generation]] = []
        self._unread: list[Generation] = []
        self._priorities: set[int] = set()

    @property
    def is_loaded(self) -> bool:
        """Whether the model is there. Takes no lock."""
        return self._pipeline is not None

    def queue_lengths(self) -> dict[int, int]:
        """How many wait, by priority; 0 where somebody has waited before. Takes no lock."""
        lengths = dict.fromkeys(sorted(self._priorities), 0)
        for generation in self.waiting():
            lengths[generation.priority] = lengths.get(generation.priority, 0) + 1
        return lengths

    def add(self, arrival: int, generation: Generation) -> None:
        """Queues a generation; ``pool.changed`` is held."""
        rank = -generation.priority, arrival
        generation.ahead = functools.partial(_ahead_of, weakref.ref(self), rank)
        heapq.heappush(self._heap, (rank, generation))
        if len(self._priorities) < _MAX_PRIORITIES:
            self._priorities.add(generation.priority)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name=f"nodespan {self.profile.model_name}", daemon=True)
            self.thread.start()

    def head(self) -> Rank | None:
        """Rank of who is next; ``pool.changed`` is held."""
        while self._heap and self._heap[0][1].is_unwanted:
            self._unread.append(heapq.heappop(self._heap)[1])
        return self._heap[0][0] if self._heap else None

    def waiting(self) -> list[Generation]:
        """Those who wait, in no order. Takes no lock."""
        return [generation for _, generation in self._heap.copy() if not generation.is_unwanted]

    def queued(self) -> list[tuple[Rank, Generation]]:
        """The queue, in no order. Takes no lock."""
        return self._heap.copy()

    def forget(self) -> list[Generation]:
        """Gives away all it had, in a forked child, where its thread does not exist."""
        left = [generation for _, generation in self._heap]
        if self.running is not None:
            left.append(self.running)
        _left_behind.append((self._pipeline, left))
        self._heap, self._unread, self._pipeline, self.running, self.thread = [], [], None, None, None
        return left

    def _work(self) -> None:
        while (step := self._take_step()) != "leave":
            generation = self.running
            if generation is None:
                self._free()
                if step == "evict":
                    labels = {semconv.REQUEST_MODEL: self.profile.model_name}
                    get_instruments(self._pool.meter_provider).record(semconv.EVICTIONS, 1, labels)
            else:
                generation.take("hit" if step == "run" else "loaded")
                generation.context.run(self._serve, generation)  # so that logs and spans there are the caller's
            with self._pool.changed:
                self.running = None
                self._pool.settle(self, holds_model=self._pipeline is not None)
            if generation is not None:
                generation.release()  # now, so that whoever has read a stream to its end finds the model idle
            del generation  # an idle thread must not keep what it was asked last

    def _take_step(self) -> Step:
        """Waits until there is something that this lane may do."""
        with self._pool.changed:
            step = self._next_step()
            while step is None:
                self._pool.changed.wait()
                step = self._next_step()
            if step in {"run", "load"}:
                self.running = heapq.heappop(self._heap)[1]
            elif step == "leave":
                self.thread = None
            self._pool.changed.notify_all()  # another lane's head may now be the first of all that wait to load
            unread, self._unread = self._unread, []
        for generation in unread:
            generation.stop()
        return step

    def _next_step(self) -> Step | None:
        head = self.head()
        if self._pool.holds(self):
            if self._pool.must_unload(self):
                return "unload" if self._pool.is_closed else "evict"
            return None if head is None else "run"
        if head is None:
            return "leave"
        return "load" if self._pool.may_load(self) else None

    def _serve(self, generation: Generation) -> None:
        with generation.owner.attached():
            if self._pipeline is None:
                try:
                    self._pipeline = self._create(self.profile)
                except BaseException as error:  # noqa: BLE001 raised again where the stream is read
                    generation.loaded(error)
                    generation.fail(error)
                    return
                generation.loaded()
            generation.run(self._pipeline)
            result = generation.result
            self.model_bytes, self.state_bytes = result.model_bytes, result.state_bytes

    def _free(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with _FREEING:
                pipeline.close()


def _ahead_of(lane: weakref.ref[Lane], rank: Rank) -> int:
    """Generations of a lane that come before this place in its queue. Takes no lock."""
    if (found := lane()) is None:
        return 0
    waiting = sum(other < rank and not generation.is_unwanted for other, generation in found.queued())
    return waiting + (found.running is not None)
