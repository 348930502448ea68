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


def test_in_the_middle_it_stops_the_model_and_raises_after_the_chunks_before(stage: Stage, ask: Ask) -> None:
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


def test_unread_chunks_come_first(stage: Stage, ask: Ask) -> None:
    stage.free = False
    stream = ask("a b c", deadline_s=DEADLINE_S)
    stage.let(2)
    wait_for(lambda: stream.metadata)
    assert [chunk.content for chunk in itertools.islice(stream, 2)] == ["a", "b"]
    with pytest.raises(DeadlineExceededError):
        next(stream)


def test_it_covers_the_queue(stage: Stage, ask: Ask) -> None:
    stage.free = False
    running, waiter = ask("running"), ask("waiter", deadline_s=0.05)
    with pytest.raises(DeadlineExceededError):
        next(waiter)
    stage.free = True
    assert [chunk.content for chunk in running] == ["running"]
    assert "begin waiter" not in stage.log


def test_it_covers_the_loading_and_leaves_the_model_loaded(stage: Stage, ask: Ask) -> None:
    stage.may_load.clear()
    stream = ask("a", deadline_s=0.05)
    with pytest.raises(DeadlineExceededError):
        next(stream)
    stage.may_load.set()
    assert [chunk.content for chunk in ask("b")] == ["b"]
    assert stage.log == ["load m", "begin b", "end b"]


def test_it_may_pass_before_anything_else_happens(stage: Stage, ask: Ask) -> None:
    stage.free = False
    for _ in range(200):
        with pytest.raises(DeadlineExceededError):
            next(ask("a", deadline_s=1e-9))


def test_one_that_is_kept_changes_nothing_and_keeps_nothing(ask: Ask) -> None:
    stream = ask("a", deadline_s=3600)
    assert [chunk.content for chunk in stream] == ["a"]
    generation = weakref.ref(stream._generation)
    del stream
    wait_for(lambda: gc.collect() is not None and generation() is None)


def test_deadlines_need_no_thread_each(stage: Stage, ask: Ask) -> None:
    stage.free = False
    streams = [ask("a", deadline_s=3600) for _ in range(100)]
    assert threading.active_count() < 50
    for stream in streams:
        stream.close()


async def test_it_reaches_the_async_reader(stage: Stage, ask: Ask) -> None:
    stage.free = False
    async with ask("a", deadline_s=0.05) as stream:
        with pytest.raises(DeadlineExceededError):
            await anext(stream)


@pytest.mark.parametrize("deadline_s", [0, -1.0, float("nan")])
def test_one_that_leaves_no_time_is_refused(ask: Ask, deadline_s: float) -> None:
    with pytest.raises(ConfigurationError, match="leaves no time"):
        ask("a", deadline_s=deadline_s)
