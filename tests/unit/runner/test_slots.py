"""Models that serve several requests at once: slots, one event loop, order, deaths of threads, forks."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from enum import IntEnum
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from measured import Measured
from nodespan import semconv
from nodespan.errors import PipelineClosedError
from nodespan.runner import Cancellation, GenerationResult, PipelineFactory, PipelineStream, Runner, Server
from nodespan.testing import AsyncEchoPipeline
from nodespan.types import GenerationRequest, ModelProfile, ModelProfileType
from pipelines import PATIENCE_S, Stage, raw, wait_for

PROFILES = {ModelProfileType.Primary: ModelProfile(name="m")}


@pytest.fixture
def stage() -> Stage:
    return Stage(is_async=True, slots=3)


@pytest.fixture
def factory(stage: Stage) -> Iterator[PipelineFactory]:
    with PipelineFactory(PROFILES, create=stage.create) as factory:
        yield factory


def read(stream: PipelineStream) -> list[str]:
    return [chunk.content for chunk in stream]


def test_as_many_run_at_once_as_there_are_slots_on_one_thread(stage: Stage, factory: PipelineFactory) -> None:
    stage.free = False
    before = threading.active_count()
    streams = [Runner(factory).stream_pipeline(raw(f"p{number} b")) for number in range(30)]
    wait_for(lambda: stage.busy == 3)
    assert threading.active_count() <= before + 2  # the lane's, and the event loop's
    assert sum(factory.queue_length(ModelProfileType.Primary).values()) == 27
    stage.free = True
    assert [read(stream) for stream in streams] == [[f"p{number}", "b"] for number in range(30)]
    assert (stage.most_busy, stage.overlaps, len(stage.threads)) == (3, 0, 1)


def test_the_highest_priority_takes_the_next_free_slot(stage: Stage, factory: PipelineFactory) -> None:
    stage.free = False
    runner = Runner(factory)
    running = [runner.stream_pipeline(raw(f"r{number}")) for number in range(3)]
    wait_for(lambda: stage.busy == 3)
    low, high = runner.stream_pipeline(raw("low"), priority=1), runner.stream_pipeline(raw("high"), priority=20)
    running[0].close()
    wait_for(lambda: "begin high" in stage.log)
    assert "begin low" not in stage.log
    stage.free = True
    for stream in (*running, low, high):
        read(stream)


async def test_a_stream_is_read_from_a_thread_and_from_a_loop_in_turn(stage: Stage, factory: PipelineFactory) -> None:
    stream = Runner(factory).stream_pipeline(raw("a b c"))
    assert (await anext(stream)).content == "a"
    assert (await asyncio.to_thread(next, stream)).content == "b"
    assert [chunk.content async for chunk in stream] == ["c"]


def test_a_cancelled_request_does_not_end_the_others(stage: Stage, factory: PipelineFactory) -> None:
    stage.free = False
    runner = Runner(factory)
    streams = [runner.stream_pipeline(raw(f"r{number}")) for number in range(3)]
    wait_for(lambda: stage.busy == 3)
    streams[1].close()
    assert "end r1" in stage.log
    stage.free = True
    assert [read(stream) for stream in streams] == [["r0"], [], ["r2"]]


class Names(IntEnum):
    LOCAL = 0
    REMOTE_A = 1
    REMOTE_B = 2


def test_models_of_a_server_do_not_count_towards_max_loaded(measured: Measured) -> None:
    """Two remote models do not evict each other, although one model may be held in this process."""
    profiles = {name: ModelProfile(name=name.name) for name in list(Names)[1:]}
    with PipelineFactory(profiles, max_loaded=1, create=AsyncEchoPipeline, meter_provider=measured.provider) as factory:
        runner = Runner(factory)
        for _ in range(3):
            for name in profiles:
                assert read(runner.stream_pipeline(raw("a b"), profile_type=name)) == ["a", " b"]
        assert factory.evictions == 0
        assert measured.of(semconv.LOADED, semconv.REQUEST_MODEL) == {"REMOTE_A": 1, "REMOTE_B": 1}


class Served(AsyncEchoPipeline):
    @staticmethod
    def server_of(profile: ModelProfile) -> Server:
        return Server("models.example", 8080)


def test_a_model_behind_a_server_has_a_client_span_and_no_server_metrics(
    tracer_provider: TracerProvider, exporter: InMemorySpanExporter, measured: Measured
) -> None:
    with PipelineFactory(PROFILES, create=Served) as factory:
        runner = Runner(factory, tracer_provider=tracer_provider, meter_provider=measured.provider)
        read(runner.stream_pipeline(raw("a b c")))
    (span,) = [span for span in exporter.get_finished_spans() if span.parent is None]
    attributes = span.attributes or {}
    assert span.kind is SpanKind.CLIENT
    assert (attributes["server.address"], attributes["server.port"]) == ("models.example", 8080)
    assert attributes["nodespan.time_to_first_token_s"] > 0
    assert not {semconv.TIME_TO_FIRST_TOKEN, semconv.TIME_PER_OUTPUT_TOKEN} & measured.points().keys()


def raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Has a thread raise an error at its next instruction, as a debugger or a killing library does."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("is_async", [False, True])
def test_a_dead_thread_is_replaced_and_no_request_is_lost(is_async: bool) -> None:
    stage = Stage(is_async=is_async)
    with PipelineFactory(PROFILES, create=stage.create) as factory:
        runner = Runner(factory)
        assert read(runner.stream_pipeline(raw("first"))) == ["first"]
        lane = factory.lane(ModelProfileType.Primary)
        for number in range(20):
            thread = wait_for(lambda: lane.thread)
            raise_in(thread, SystemExit)
            stream = runner.stream_pipeline(raw(f"n{number}"), deadline_s=PATIENCE_S)
            try:
                assert read(stream) == [f"n{number}"]
            except (SystemExit, RuntimeError):
                assert stream.metadata is not None
            wait_for(lambda dead=thread: lane.thread is not dead)
            thread.join(PATIENCE_S)  # or pytest would report its end in the next test
        assert read(runner.stream_pipeline(raw("last"))) == ["last"]
    assert stage.overlaps == 0


class RunsWild:
    """Starts a task that ends the program, as a library may."""

    slots = 1

    def __init__(self, profile: ModelProfile) -> None: ...

    async def agenerate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> AsyncGenerator[str]:
        async def wild() -> None:
            raise SystemExit(3)

        task = asyncio.create_task(wild())
        while not task.done():
            await asyncio.sleep(0.001)
        yield f"{type(task.exception()).__name__}"

    async def aclose(self) -> None:
        await asyncio.sleep(3600)  # closing lasts too long


def test_a_task_that_ends_the_program_does_not_end_the_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nodespan.runner.scheduler._CLOSING_S", 0.1)
    with PipelineFactory(PROFILES, create=RunsWild) as factory:
        runner = Runner(factory)
        for _ in range(3):
            assert read(runner.stream_pipeline(raw("a"))) == ["SystemExit"]
    codes = {record.__dict__.get("nodespan.code") for record in caplog.records}
    assert {"pipeline.task_failed", "pipeline.close_failed"} <= codes


def test_closing_the_factory_ends_running_generations(stage: Stage, factory: PipelineFactory) -> None:
    stage.free = False
    streams = [Runner(factory).stream_pipeline(raw("a b")) for _ in range(5)]
    wait_for(lambda: stage.busy == 3)
    factory.close()
    for stream in streams:
        with pytest.raises(PipelineClosedError):
            read(stream)
    assert stage.loaded == 0


class Connected:
    """Streams data of a socket."""

    slots = 2
    address: tuple[str, int]

    def __init__(self, profile: ModelProfile) -> None: ...

    async def agenerate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> AsyncGenerator[str]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            while data := await reader.read(100):
                yield data.decode()
        finally:
            writer.close()

    async def aclose(self) -> None: ...


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_no_connection_and_the_parents_generation_continues() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        Connected.address = listening.getsockname()
        with PipelineFactory(PROFILES, create=Connected) as factory:
            stream = Runner(factory).stream_pipeline(raw("a"))
            server, _ = listening.accept()
            server.settimeout(PATIENCE_S)
            server.sendall(b"one")
            assert next(stream).content == "one"
            started, hold = os.pipe(), os.pipe()
            child = os.fork()
            if child == 0:
                with pytest.raises(PipelineClosedError):
                    read(stream)
                os.write(started[1], b"x")
                os.read(hold[0], 1)
                os._exit(0)
            os.read(started[0], 1)
            server.sendall(b"two")
            assert next(stream).content == "two"
            closed_at = time.monotonic()
            stream.close()
            assert server.recv(1) == b""  # the end arrives although the child lives
            assert time.monotonic() - closed_at < PATIENCE_S / 2
            os.write(hold[1], b"x")
            assert os.waitpid(child, 0)[1] == 0
            server.close()
            for descriptor in (*started, *hold):
                os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_its_own_event_loop(stage: Stage, factory: PipelineFactory) -> None:
    assert read(Runner(factory).stream_pipeline(raw("a b"))) == ["a", "b"]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            answers: Any = [read(Runner(factory).stream_pipeline(raw("c d"))) for _ in range(3)]
            status = int(answers != [["c", "d"]] * 3)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
