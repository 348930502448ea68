"""Collected values of queues and models, after errors, cancellations, evictions and forks."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

import pytest

from measured import Measured
from nodespan import semconv
from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.runner.scheduler import MAX_PRIORITIES
from nodespan.types import ModelProfile
from pipelines import PATIENCE_S, Stage, raw, wait_for


class Size(IntEnum):
    SMALL = 0
    LARGE = 1


PROFILES = {size: ModelProfile(name=size.name.lower()) for size in Size}
Ask = Callable[..., PipelineStream]


@pytest.fixture
def factory(stage: Stage, measured: Measured) -> Iterator[PipelineFactory]:
    with PipelineFactory(PROFILES, create=stage.create, meter_provider=measured.provider) as factory:
        yield factory


@pytest.fixture
def ask(factory: PipelineFactory, measured: Measured) -> Ask:
    runner = Runner(factory, meter_provider=measured.provider)

    def ask(prompt: str, size: Size = Size.SMALL, **options: Any) -> PipelineStream:
        return runner.stream_pipeline(raw(prompt), profile_type=size, **options)

    return ask


def loaded(measured: Measured) -> dict[Any, Any]:
    return measured.of(semconv.LOADED, semconv.REQUEST_MODEL)


def queued(measured: Measured) -> dict[Any, Any]:
    return measured.of(semconv.QUEUE_LENGTH, semconv.REQUEST_MODEL, semconv.PRIORITY)


def in_flight(measured: Measured) -> dict[Any, Any]:
    return measured.of(semconv.TOKENS_IN_FLIGHT, semconv.REQUEST_MODEL)


def test_a_queue_has_its_length_by_priority_and_is_empty_afterwards(stage: Stage, ask: Ask, measured: Measured) -> None:
    stage.free = False
    running = ask("running")
    wait_for(lambda: "begin running" in stage.log)
    waiting = [ask("a"), ask("b"), ask("c", priority=20), ask("d", Size.LARGE, priority=1)]
    assert queued(measured) == {("small", 10): 2, ("small", 20): 1, ("large", 1): 1}
    waiting.pop(0).close()
    assert queued(measured) == {("small", 10): 1, ("small", 20): 1, ("large", 1): 1}
    stage.free = True
    for stream in (running, *waiting):
        list(stream)
    assert queued(measured) == {("small", 10): 0, ("small", 20): 0, ("large", 1): 0}


def test_a_dropped_request_leaves_the_queue(stage: Stage, ask: Ask, measured: Measured) -> None:
    stage.free = False
    with ask("running"):
        wait_for(lambda: "begin running" in stage.log)
        ask("dropped")
        gc.collect()
        assert queued(measured) == {("small", 10): 0}


def test_the_number_of_reported_priorities_is_bounded(ask: Ask, factory: PipelineFactory, measured: Measured) -> None:
    for priority in range(3 * MAX_PRIORITIES):
        list(ask("a", priority=priority))
    assert len(queued(measured)) == MAX_PRIORITIES
    assert factory.queue_length(Size.SMALL) == {}


def test_a_model_is_loaded_from_its_load_to_its_eviction(stage: Stage, ask: Ask, measured: Measured) -> None:
    stage.may_load.clear()
    stream = ask("a")
    wait_for(lambda: stage.log == ["load small"])
    assert loaded(measured) == {"small": 0, "large": 0}
    stage.may_load.set()
    list(stream)
    assert loaded(measured) == {"small": 1, "large": 0}
    list(ask("b", Size.LARGE))
    assert loaded(measured) == {"small": 0, "large": 1}


def test_evictions_are_counted_and_closing_is_not_one(ask: Ask, factory: PipelineFactory, measured: Measured) -> None:
    for size in (Size.SMALL, Size.LARGE, Size.SMALL):
        list(ask("a", size))
    factory.close()
    assert measured.of(semconv.EVICTIONS, semconv.REQUEST_MODEL) == {"small": 1, "large": 1}
    assert factory.evictions == 2


def test_a_model_that_could_not_be_loaded_is_not_loaded(stage: Stage, ask: Ask, measured: Measured) -> None:
    stage.load_error = RuntimeError("no memory")
    with pytest.raises(RuntimeError, match="no memory"):
        list(ask("a"))
    assert loaded(measured) == {"small": 0, "large": 0}
    assert in_flight(measured) == {"small": 0, "large": 0}


def test_tokens_are_in_flight_while_they_are_generated(stage: Stage, ask: Ask, measured: Measured) -> None:
    stage.free = False
    stream = ask("a b c d")
    stage.let(3)
    for _ in range(3):
        next(stream)
    assert in_flight(measured) == {"small": 3, "large": 0}
    stream.close()
    wait_for(lambda: in_flight(measured) == {"small": 0, "large": 0})


@pytest.mark.parametrize("prompt", ["a b raise", "a b"])
def test_after_an_error_and_after_a_success_no_tokens_are_in_flight(prompt: str, ask: Ask, measured: Measured) -> None:
    stream = ask(prompt)
    try:
        list(stream)
    except ValueError:
        assert "raise" in prompt
    wait_for(lambda: in_flight(measured) == {"small": 0, "large": 0})
    assert loaded(measured) == {"small": 1, "large": 0}


def test_a_closed_factory_has_no_loaded_models_and_no_waiting_requests(
    stage: Stage, ask: Ask, factory: PipelineFactory, measured: Measured
) -> None:
    stage.free = False
    streams = [ask("a"), ask("b")]
    wait_for(lambda: "begin a" in stage.log)
    factory.close()
    assert loaded(measured) == {"small": 0, "large": 0}
    assert in_flight(measured) == {"small": 0, "large": 0}
    assert queued(measured) == {("small", 10): 0}
    assert all(stream.metadata is not None for stream in streams)


def test_a_dropped_factory_has_no_metrics(stage: Stage, measured: Measured) -> None:
    factory = PipelineFactory(PROFILES, create=stage.create, meter_provider=measured.provider)
    list(Runner(factory).stream_pipeline(raw("a"), profile_type=Size.SMALL))
    assert loaded(measured) == {"small": 1, "large": 0}
    del factory
    wait_for(lambda: gc.collect() >= 0 and loaded(measured) == {})
    assert stage.loaded == 0


def test_values_of_factories_with_one_model_are_summed(stage: Stage, ask: Ask, measured: Measured) -> None:
    list(ask("a"))
    with PipelineFactory(PROFILES, create=stage.create, meter_provider=measured.provider) as other:
        list(Runner(other).stream_pipeline(raw("a"), profile_type=Size.SMALL))
        assert loaded(measured) == {"small": 2, "large": 0}


def test_a_collection_does_not_wait_for_a_lock(ask: Ask, factory: PipelineFactory, measured: Measured) -> None:
    list(ask("a"))
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with factory._scheduler.changed:
            held.set()
            release.wait(PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE_S)
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.append(loaded(measured)), daemon=True)
    reader.start()
    reader.join(PATIENCE_S)
    release.set()
    holder.join()
    assert seen == [{"small": 1, "large": 0}]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_count_its_parents_models(stage: Stage, ask: Ask, measured: Measured) -> None:
    stage.free = False
    running, waiting = ask("a b"), ask("c")
    stage.let(1)
    next(running)
    assert loaded(measured) == {"small": 1, "large": 0}
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        seen = [loaded(measured), in_flight(measured), queued(measured)]
        os.write(write, repr(seen).encode())
        os._exit(0)
    os.waitpid(child, 0)
    nothing = [{"small": 0, "large": 0}, {"small": 0, "large": 0}, {("small", 10): 0}]
    assert os.read(read, 1000).decode() == repr(nothing)
    assert queued(measured) == {("small", 10): 1}
    os.close(read)
    os.close(write)
    running.close()
    waiting.close()
