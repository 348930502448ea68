"""A deadline stops a generation wherever it is: before it begins, in the queue, loading, generating, paused."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from nodespan.errors import ConfigurationError, DeadlineExceededError
from nodespan.runner import PipelineStream
from nodespan.runner.chunk_queue import CAPACITY
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
    assert stream.metadata.finish_reason == "cancelled"
    assert stream.metadata.error_type == "nodespan.errors.DeadlineExceededError"


def test_chunks_that_were_not_read_come_first(ask: Ask) -> None:
    stream = ask("a " * 10 * CAPACITY, deadline_s=DEADLINE_S)
    wait_for(lambda: stream.metadata)
    chunks = list(itertools.islice(stream, CAPACITY))
    assert len(chunks) == CAPACITY
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


def test_one_that_is_kept_changes_nothing(ask: Ask) -> None:
    stream = ask("a", deadline_s=60)
    assert [chunk.content for chunk in stream] == ["a"]
    wait_for(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))


async def test_it_reaches_the_async_reader(stage: Stage, ask: Ask) -> None:
    stage.free = False
    async with ask("a", deadline_s=0.05) as stream:
        with pytest.raises(DeadlineExceededError):
            await anext(stream)


@pytest.mark.parametrize("deadline_s", [0, -1.0, float("nan")])
def test_one_that_leaves_no_time_is_refused(ask: Ask, deadline_s: float) -> None:
    with pytest.raises(ConfigurationError, match="leaves no time"):
        ask("a", deadline_s=deadline_s)
