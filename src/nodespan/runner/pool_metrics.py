"""What is asked of a factory's models at each collection of metrics.

Nothing here takes a lock: the collecting thread holds one of the SDK's, which others may wait for. Each value is one
look at the state, by operations that are atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nodespan import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nodespan.runner.lane import Lane
    from nodespan.runner.pool import Pool
    from nodespan.spans.instruments import Labels, Readings


def _queue_lengths(pool: Pool) -> Readings:
    for lane in pool.lanes.values():
        for priority, length in lane.queue_lengths().items():
            yield length, {**_model(lane), semconv.PRIORITY: priority}


def _loaded(pool: Pool) -> Readings:
    return ((int(lane.is_loaded), _model(lane)) for lane in pool.lanes.values())


def _tokens_in_flight(pool: Pool) -> Readings:
    for lane in pool.lanes.values():
        running = lane.running
        result = running.result if running is not None else None
        yield (result.input_tokens or 0) + (result.output_tokens or 0) if result is not None else 0, _model(lane)


def _model_sizes(pool: Pool) -> Iterator[tuple[float, Labels]]:
    for lane in pool.lanes.values():
        if lane.model_bytes is not None:
            yield lane.model_bytes if lane.is_loaded else 0, _model(lane)


def _state_sizes(pool: Pool) -> Iterator[tuple[float, Labels]]:
    for lane in pool.lanes.values():
        if lane.state_bytes is not None:
            yield lane.state_bytes if lane.is_loaded else 0, _model(lane)


def _model(lane: Lane) -> dict[str, str | int | None]:
    return {semconv.REQUEST_MODEL: lane.profile.model_name}


READINGS: Final[Mapping[str, Callable[[Pool], Readings]]] = {
    semconv.QUEUE_LENGTH: _queue_lengths,
    semconv.LOADED: _loaded,
    semconv.TOKENS_IN_FLIGHT: _tokens_in_flight,
    semconv.MODEL_SIZE: _model_sizes,
    semconv.STATE_SIZE: _state_sizes,
}
