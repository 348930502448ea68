"""Guarantees of a stream to its reader, in a thread and in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import signal
import threading
from collections.abc import Callable

import pytest

from nodespan.runner import PipelineStream
from nodespan.runner.chunk_buffer import UNREAD_LIMIT_BYTES
from nodespan.types import Chunk
from pipelines import PATIENCE_S, Stage, wait_for

Ask = Callable[..., PipelineStream]


def has_stopped(stage: Stage, prompt: str) -> bool:
    return f"end {prompt}" in stage.log


def test_chunks_are_in_order_with_their_index(ask: Ask) -> None:
    stream = ask("one two")
    assert list(stream) == [Chunk("one", 0), Chunk("two", 1)]
    assert list(stream) == []
    assert stream.metadata is not None
    assert (stream.metadata.finish_reason, stream.metadata.output_tokens) == ("stop", 2)


async def test_the_async_interface_returns_the_same_chunks(ask: Ask) -> None:
    async with ask("one two") as stream:
        assert [chunk async for chunk in stream] == [Chunk("one", 0), Chunk("two", 1)]
        assert [chunk async for chunk in stream] == []
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "stop"


async def test_the_sync_interface_works_under_a_running_loop(ask: Ask) -> None:
    with ask("one two") as stream:
        assert [chunk.content for chunk in stream] == ["one", "two"]


def test_there_is_no_metadata_before_the_end(stage: Stage, ask: Ask) -> None:
    stage.free = False
    with ask("one two") as stream:
        stage.let(1)
        next(stream)
        assert stream.metadata is None
        stage.free = True


@pytest.mark.parametrize("prompt", ["", "one"])
def test_an_empty_answer_and_one_of_one_chunk_end_normally(ask: Ask, prompt: str) -> None:
    stream = ask(prompt)
    assert [chunk.content for chunk in stream] == prompt.split()
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "stop"


def test_the_models_error_is_raised_after_the_chunks_before_it_and_once(ask: Ask) -> None:
    stream = ask("one two raise three")
    assert (next(stream).content, next(stream).content) == ("one", "two")
    with pytest.raises(ValueError, match="the model's own error"):
        next(stream)
    assert list(stream) == []
    assert stream.metadata is not None
    assert (stream.metadata.finish_reason, stream.metadata.error_type) == ("error", "ValueError")


async def test_the_models_error_is_raised_in_the_async_reader(ask: Ask) -> None:
    async with ask("one raise") as stream:
        assert (await anext(stream)).content == "one"
        with pytest.raises(ValueError, match="the model's own error"):
            await anext(stream)


def test_closing_a_with_block_early_stops_the_model_and_completes_the_metadata(stage: Stage, ask: Ask) -> None:
    stage.free = False
    with ask("one two three") as stream:
        stage.let(1)
        next(stream)
    stage.free = True
    assert has_stopped(stage, "one two three")
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "cancelled"
    assert list(stream) == []
    assert [chunk.content for chunk in ask("next")] == ["next"]


async def test_closing_an_async_with_block_early_stops_the_model(stage: Stage, ask: Ask) -> None:
    stage.free = False
    async with ask("one two three") as stream:
        stage.let(1)
        await anext(stream)
    assert has_stopped(stage, "one two three")
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "cancelled"


def test_a_model_does_not_wait_for_its_reader(stage: Stage, ask: Ask) -> None:
    """A slow reader with little unread text holds the model no longer than its generation."""
    prompt = "a " * 5000
    slow = ask(prompt)
    assert next(slow).content == "a"
    wait_for(lambda: has_stopped(stage, prompt))
    assert [chunk.content for chunk in ask("next", deadline_s=30)] == ["next"]
    assert len(list(slow)) == 4999


def endless(stage: Stage, size: int) -> str:
    """A prompt of words of that many bytes, more than may be unread."""
    return " ".join(["a" * size] * (2 * UNREAD_LIMIT_BYTES // size))


def test_a_stream_with_too_much_unread_text_ends_as_length_and_frees_its_model(
    stage: Stage, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = endless(stage, 1000)
    stream = ask(prompt)
    wait_for(lambda: has_stopped(stage, prompt))
    assert [chunk.content for chunk in ask("next", deadline_s=30)] == ["next"]
    read = sum(len(chunk.content) for chunk in stream)
    assert UNREAD_LIMIT_BYTES < read <= UNREAD_LIMIT_BYTES + 1000
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "length"
    assert stream.metadata.error_type is None
    assert [record.__dict__.get("nodespan.code") for record in caplog.records] == ["stream.unread_limit"]


def test_a_reader_that_keeps_up_reads_any_length(stage: Stage, ask: Ask) -> None:
    stage.free = False
    prompt = endless(stage, 50_000)
    stream = ask(prompt)
    total = 0
    for word in prompt.split():
        stage.let(1)
        total += len(next(stream).content)
        assert word
    assert total > UNREAD_LIMIT_BYTES
    assert list(stream) == []


@pytest.mark.parametrize("words", [1, 10_000])
@pytest.mark.parametrize("read", [0, 1])
def test_a_stream_that_is_dropped_stops_its_model(stage: Stage, ask: Ask, words: int, read: int) -> None:
    stage.free = words > 1
    prompt = "a " * words
    stream = ask(prompt)
    wait_for(lambda: f"begin {prompt}" in stage.log)
    if read:
        stage.let(read)
    list(itertools.islice(stream, read))
    del stream
    wait_for(lambda: has_stopped(stage, prompt))
    stage.free = True
    assert [chunk.content for chunk in ask("next")] == ["next"]


def test_a_dropped_request_in_the_queue_is_never_run(stage: Stage, ask: Ask) -> None:
    stage.free = False
    running, dropped = ask("running"), ask("dropped")
    wait_for(lambda: "begin running" in stage.log)
    del dropped
    stage.free = True
    list(running)
    list(ask("last"))
    assert "begin dropped" not in stage.log


async def test_breaking_out_of_async_for_stops_the_model(stage: Stage, ask: Ask) -> None:
    async for _ in ask("a " * 200):
        break
    gc.collect()
    await asyncio.to_thread(wait_for, lambda: has_stopped(stage, "a " * 200))


async def test_cancelling_the_reading_task_stops_the_model(stage: Stage, ask: Ask) -> None:
    stage.free = False
    stream = ask("a b")

    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await asyncio.to_thread(wait_for, lambda: "begin a b" in stage.log)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_for, lambda: has_stopped(stage, "a b"))
    await stream.aclose()
    assert stream.metadata is not None
    assert stream.metadata.finish_reason == "cancelled"


async def test_a_cancelled_request_leaves_the_queue_at_once(stage: Stage, ask: Ask) -> None:
    stage.free = False
    running, waiter = ask("running"), ask("waiter")
    task = asyncio.create_task(anext(waiter))
    await asyncio.to_thread(wait_for, lambda: "begin running" in stage.log)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiter.metadata is not None
    assert waiter.metadata.finish_reason == "cancelled"
    stage.free = True
    assert [chunk.content async for chunk in running] == ["running"]
    assert "begin waiter" not in stage.log


def test_a_loop_that_is_closed_in_the_middle_stops_the_model(stage: Stage, ask: Ask) -> None:
    stage.free = False

    async def read() -> None:
        async for _ in ask("a b"):
            pass

    loop = asyncio.new_event_loop()
    task = loop.create_task(read())
    while "begin a b" not in stage.log:
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    stage.let(1)
    task._log_destroy_pending = False  # type: ignore[attr-defined] # the point of this test
    del task
    wait_for(lambda: gc.collect() is not None and has_stopped(stage, "a b"))
    stage.free = True
    assert [chunk.content for chunk in ask("next")] == ["next"]


def test_one_stream_can_be_read_by_several_loops_in_turn(ask: Ask) -> None:
    stream = ask("a b c")
    assert [asyncio.run(_anext(stream)).content for _ in range(3)] == ["a", "b", "c"]


async def _anext(stream: PipelineStream) -> Chunk:
    return await anext(stream)


def test_closing_from_another_thread_ends_a_blocked_read(stage: Stage, ask: Ask) -> None:
    stage.free = False
    stream = ask("a")
    chunks: list[Chunk] = []
    reader = threading.Thread(target=lambda: chunks.extend(stream))
    reader.start()
    wait_for(lambda: "begin a" in stage.log)
    stream.close()
    reader.join(PATIENCE_S)
    assert not reader.is_alive()
    assert chunks == []


def test_an_interrupt_in_the_middle_of_a_read_stops_the_model(stage: Stage, ask: Ask) -> None:
    stage.free = False
    stream = ask("a")
    wait_for(lambda: "begin a" in stage.log)
    main = threading.main_thread().ident
    assert main is not None
    interrupted = threading.Event()

    def once(_number: int, _frame: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        """Repeatedly: a signal just before the read blocks is handled only after the read."""
        wait_for(lambda: stream._pieces._readers)
        while not interrupted.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, once)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        interrupted.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: has_stopped(stage, "a"))


def test_the_model_runs_in_a_copy_of_the_callers_context(stage: Stage, ask: Ask) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    seen: list[str] = []

    def spy() -> None:
        seen.append(variable.get())
        variable.set("changed by the model")

    stage.look = spy
    for caller in ("first", "second"):
        context = contextvars.copy_context()
        context.run(variable.set, caller)
        context.run(lambda: list(ask("a")))
        assert context[variable] == caller
    assert seen == ["first", "second"]


def test_hundreds_of_threads_and_tasks_receive_their_own_answer(stage: Stage, ask: Ask) -> None:
    texts: dict[str, list[str]] = {}

    def in_a_thread(name: str) -> None:
        texts[name] = [chunk.content for chunk in ask(f"{name} " * 70)]

    async def in_a_task(name: str) -> None:
        async with ask(f"{name} " * 70) as stream:
            texts[name] = [chunk.content async for chunk in stream]

    async def in_tasks() -> None:
        await asyncio.gather(*(in_a_task(f"task{number}") for number in range(100)))

    threads = [threading.Thread(target=in_a_thread, args=(f"thread{number}",)) for number in range(100)]
    for thread in threads:
        thread.start()
    asyncio.run(in_tasks())
    for thread in threads:
        thread.join()
    assert len(texts) == 200
    assert all(text == [name] * 70 for name, text in texts.items())
    assert stage.overlaps == 0


def test_streams_closed_at_random_stop_their_model(stage: Stage, ask: Ask) -> None:
    async def leave(after: int) -> None:
        stream = ask("a " * 100)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after / 10_000):
                async for chunk in stream:
                    if chunk.index == after:
                        break
        if after % 2:
            await stream.aclose()

    async def all_of_them() -> None:
        await asyncio.gather(*(leave(after % 97) for after in range(300)))

    asyncio.run(all_of_them())
    assert [chunk.content for chunk in ask("next")] == ["next"]
    assert stage.busy == 0
