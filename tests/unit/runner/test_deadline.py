"""A deadline stops a generation wherever it is: before it begins, in the queue, loading, generating."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable

import pytest

from nodespan.errors import ConfigurationError, DeadlineExceededError
from nodespan.runner import PipelineStream
from pipelines import Stage, wait_for

Ask = Callable[..., PipelineStream]

DEADLINE_S = 1.0  # time enough to begin, on a busy machine too


def test_a_deadline_stops_the_model_and_is_raised_after_earlier_chunks(stage: Stage, ask: Ask) -> None:
    stage.free = False
    stream = ask("a b", deadline_s=DEADLINE_S)
    stage.let(1)
    assert next(stream).content == "a"
    with pytest.raises(DeadlineExceededError, match=rf"deadline_s={DEADLINE_S}"):
        next(stream)
    assert "end a b" in stage.log
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "error"
    assert stream.metadata.error_type == "nodespan.errors.DeadlineExceededError"


def test_unread_chunks_are_read_before_the_deadline_is_raised(stage: Stage, ask: Ask) -> None:
    stage.free = False
    stream = ask("a b c", deadline_s=DEADLINE_S)
    stage.let(2)
    wait_for(lambda: stream.metadata)
    assert [chunk.content for chunk in itertools.islice(stream, 2)] == ["a", "b"]
    with pytest.raises(DeadlineExceededError):
        next(stream)


def test_a_deadline_covers_the_queue(stage: Stage, ask: Ask) -> None:
    stage.free = False
    running, waiter = ask("running"), ask("waiter", deadline_s=0.05)
    with pytest.raises(DeadlineExceededError):
        next(waiter)
    stage.free = True
    assert [chunk.content for chunk in running] == ["running"]
    assert "begin waiter" not in stage.log


def test_a_deadline_covers_the_loading_and_the_model_stays_loaded(stage: Stage, ask: Ask) -> None:
    stage.may_load.clear()
    stream = ask("a", deadline_s=0.05)
    with pytest.raises(DeadlineExceededError):
        next(stream)
    stage.may_load.set()
    assert [chunk.content for chunk in ask("b")] == ["b"]
    assert stage.log == ["load m", "begin b", "end b"]


def test_a_deadline_can_pass_before_the_generation_starts(stage: Stage, ask: Ask) -> None:
    stage.free = False
    for _ in range(200):
        with pytest.raises(DeadlineExceededError):
            next(ask("a", deadline_s=1e-9))


def test_a_deadline_that_does_not_pass_has_no_effect_and_is_removed(ask: Ask) -> None:
    stream = ask("a", deadline_s=3600)
    assert [chunk.content for chunk in stream] == ["a"]
    generation = weakref.ref(stream._generation)
    del stream
    wait_for(lambda: gc.collect() is not None and generation() is None)


def test_deadlines_share_a_thread(stage: Stage, ask: Ask) -> None:
    stage.free = False
    streams = [ask("a", deadline_s=3600) for _ in range(100)]
    assert threading.active_count() < 50
    for stream in streams:
        stream.close()


async def test_a_deadline_is_raised_in_the_async_reader(stage: Stage, ask: Ask) -> None:
    stage.free = False
    async with ask("a", deadline_s=0.05) as stream:
        with pytest.raises(DeadlineExceededError):
            await anext(stream)


@pytest.mark.parametrize("deadline_s", [0, -1.0, float("nan")])
def test_a_deadline_of_zero_or_less_is_refused(ask: Ask, deadline_s: float) -> None:
    with pytest.raises(ConfigurationError, match=r"deadline_s=.* is invalid"):
        ask("a", deadline_s=deadline_s)
