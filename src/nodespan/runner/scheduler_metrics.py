"""The observed metrics of a factory's models.

Nothing here acquires a lock: the collecting thread holds one of the SDK's, which others may wait for. Each value is one
read of the state, by atomic operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodespan import semconv
from nodespan.engine.contract import is_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nodespan.runner.scheduler import Lane, Scheduler
    from nodespan.spans.instruments import Labels, Readings


def _queue_lengths(scheduler: Scheduler) -> Readings:
    for lane in scheduler.lanes.values():
        for priority, length in lane.queue_lengths().items():
            yield length, {**_model(lane), semconv.PRIORITY: priority}


def _loaded(scheduler: Scheduler) -> Readings:
    return ((int(lane.is_loaded), _model(lane)) for lane in scheduler.lanes.values())


def _tokens_in_flight(scheduler: Scheduler) -> Readings:
    for lane in scheduler.lanes.values():
        counts = (
            count
            for generation in lane.running.copy()
            for count in (generation.result.input_tokens, generation.result.output_tokens)
        )
        yield sum(count for count in counts if count is not None and is_count(count)), _model(lane)


def _model_sizes(scheduler: Scheduler) -> Iterator[tuple[float, Labels]]:
    for lane in scheduler.lanes.values():
        if lane.model_bytes is not None:
            yield lane.model_bytes if lane.is_loaded else 0, _model(lane)


def _state_sizes(scheduler: Scheduler) -> Iterator[tuple[float, Labels]]:
    for lane in scheduler.lanes.values():
        if lane.state_bytes is not None:
            yield lane.state_bytes if lane.is_loaded else 0, _model(lane)


def _model(lane: Lane) -> dict[str, str | int | None]:
    return {semconv.REQUEST_MODEL: lane.model.profile.model_name}


READINGS: Final[Mapping[str, Callable[[Scheduler], Readings]]] = {
    semconv.QUEUE_LENGTH: _queue_lengths,
    semconv.LOADED: _loaded,
    semconv.TOKENS_IN_FLIGHT: _tokens_in_flight,
    semconv.MODEL_SIZE: _model_sizes,
    semconv.STATE_SIZE: _state_sizes,
}
