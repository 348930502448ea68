"""How many models may be loaded at once, and which of them makes room."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nodespan.errors import PipelineClosedError

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from nodespan.runner.generation import Generation
    from nodespan.runner.lane import Lane, Rank


class Pool:
    """What the lanes of one factory share.

    Nobody commands: after each change every lane looks at the state and knows from it alone whether it is the one to
    load or to unload now. All methods but ``close`` are called with ``changed`` held.

    Attributes:
        changed: Held while anything here or in a lane is read or written. Reentrant, because garbage collection may
            close an abandoned factory in the middle of it.
        lanes: By profile type.
        evictions: Models that were freed to make room.
        meter_provider: Where they count; the global one at that time if ``None``.
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
        """Queues a generation in a lane of this pool."""
        if self.is_closed:
            raise closed()
        self._arrivals += 1
        lane.add(self._arrivals, generation)
        self.changed.notify_all()

    def holds(self, lane: Lane) -> bool:
        """Whether the lane's model is loaded, or about to be, or not yet gone."""
        return lane in self._holding

    def may_load(self, lane: Lane) -> bool:
        """Whether there is room for this lane's model; if so it is taken."""
        free = len(self._holding) < self._max_loaded and not self.is_closed
        if free and self._next_to_load()[1] is lane:
            self._holding[lane] = None
            return True
        return False

    def must_unload(self, lane: Lane) -> bool:
        """Whether this lane, being idle, is the one to make room; if so it counts as doing it."""
        if not self.is_closed:
            rival, _ = self._next_to_load()
            if rival is None or len(self._holding) < self._max_loaded or self._unloading is not None:
                return False
            if self._least_recent_before(rival) is not lane:
                return False
            self._unloading = lane
            self.evictions += 1
        return True

    def settle(self, lane: Lane, *, holds_model: bool) -> None:
        """Notes that the lane is idle again, and whether its model is still there."""
        self._holding.pop(lane, None)
        if holds_model:
            self._holding[lane] = None
        if self._unloading is lane:
            self._unloading = None
        self.changed.notify_all()

    def close(self) -> list[threading.Thread]:
        """Ends what runs and what waits, and has every model freed by its own thread. Returns those threads."""
        with self.changed:
            self.is_closed = True
            lanes = list(self.lanes.values())
            generations = [generation for lane in lanes for generation in lane.waiting()]
            generations += [lane.running for lane in lanes if lane.running is not None]
            threads = [lane.thread for lane in lanes if lane.thread is not None]
        for generation in generations:
            generation.stop(closed())
        with self.changed:
            self.changed.notify_all()
        return threads

    def forget(self) -> None:
        """Starts anew in a forked child: the threads stayed in the parent, and the models cannot be used without them.

        Their memory is left as it is, shared with the parent: freeing it would copy it first.
        """
        self.changed = threading.Condition()
        self._holding = {}
        self._unloading = None
        for lane in self.lanes.values():
            for generation in lane.forget():
                generation.orphan(
                    PipelineClosedError(
                        "The process was forked while this generation was under way. Read its stream in the process "
                        "that asked for it, or ask again."
                    )
                )

    def _next_to_load(self) -> tuple[Rank | None, Lane | None]:
        """The first in rank of all that wait for a model that is not loaded."""
        heads = [(head, lane) for lane in self.lanes.values() if lane not in self._holding and (head := lane.head())]
        return min(heads, key=lambda pair: pair[0], default=(None, None))

    def _least_recent_before(self, rival: Rank) -> Lane | None:
        """The model not used for longest among those that are idle and have nobody waiting with a better rank."""
        for lane in self._holding:
            head = lane.head()
            if lane.running is None and lane is not self._unloading and (head is None or head > rival):
                return lane
        return None


def closed() -> PipelineClosedError:
    """The error of everybody who uses a closed factory."""
    return PipelineClosedError("The PipelineFactory was closed. Keep it open while it is used, or make a new one.")
