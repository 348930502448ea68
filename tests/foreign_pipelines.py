"""Pipelines that break the contract, and a factory to run them in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from measured import Measured
from nodespan.runner import Cancellation, GenerationResult, PipelineFactory, PipelineStream, Runner
from nodespan.types import GenerationRequest, ModelProfile
from pipelines import raw


class Model(IntEnum):
    FOREIGN = 0
    HEALTHY = 1


PROFILES = {Model.FOREIGN: ModelProfile(name="foreign"), Model.HEALTHY: ModelProfile(name="healthy")}
Behaviour = Callable[[Cancellation, GenerationResult], Any]


class SyncPipeline:
    """Misbehaves at the prompt "break", is well at any other."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def generate(self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult) -> Any:
        return self.behaviour(cancellation, result) if request.prompt == "break" else iter_words(request.prompt)

    def close(self) -> None: ...


class AsyncPipeline:
    """The same in the asynchronous form: each chunk is yielded after an iteration of the event loop."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def agenerate(self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult) -> Any:
        pieces = self.behaviour(cancellation, result) if request.prompt == "break" else iter_words(request.prompt)
        return one_by_one(pieces) if isinstance(pieces, Generator) else pieces

    async def aclose(self) -> None: ...


def iter_words(prompt: str | None) -> Generator[str]:
    yield from (prompt or "").split()


async def one_by_one(pieces: Generator[Any]) -> Any:
    with_close = pieces
    try:
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece
    finally:
        with_close.close()


class Odd:
    """No text, no number, nothing to iterate over."""

    def __repr__(self) -> str:
        return "odd"


FORMS = [SyncPipeline, AsyncPipeline]


class Stand:
    """A factory with room for one model: the foreign one, and a healthy one that needs its room."""

    def __init__(self, form: Any, tracer_provider: TracerProvider, measured: Measured) -> None:
        self.behaviour: Behaviour = lambda _cancellation, _result: iter_words("")
        self.load: Callable[[], None] = lambda: None
        self.close: Callable[[], None] = lambda: None
        self.form = form
        self.factory = PipelineFactory(PROFILES, create=self.create, meter_provider=measured.provider)
        self.runner = Runner(self.factory, tracer_provider=tracer_provider, meter_provider=measured.provider)

    def create(self, profile: ModelProfile) -> Any:
        if profile.name == "foreign":
            self.load()
        pipeline = self.form(lambda cancellation, result: self.behaviour(cancellation, result))
        if profile.name == "foreign":
            name = "close" if self.form is SyncPipeline else "aclose"
            pipeline.__dict__[name] = self.close if self.form is SyncPipeline else self.aclose
        return pipeline

    async def aclose(self) -> None:
        self.close()

    def ask(self, prompt: str = "break", **options: Any) -> PipelineStream:
        return self.runner.stream_pipeline(raw(prompt), profile_type=Model.FOREIGN, **options)

    def serves_on(self) -> bool:
        """Checks that the lane, and another model in its place, serve the next requests."""
        assert read(self.ask("still well"))[0] == ["still", "well"]
        healthy = self.runner.stream_pipeline(raw("well too"), profile_type=Model.HEALTHY)
        assert read(healthy)[0] == ["well", "too"]
        return True


def read(stream: PipelineStream) -> tuple[list[str], BaseException | None]:
    """Reads to the end in a thread, so that a stream without an end fails the test and does not hang it."""
    pieces: list[str] = []
    raised: list[BaseException | None] = []

    def consume() -> None:
        try:
            pieces.extend(chunk.content for chunk in stream)
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(None)

    reader = threading.Thread(target=consume, daemon=True)
    reader.start()
    reader.join(20)
    assert raised, "the reader has reached no end"
    assert stream.metadata is not None
    return pieces, raised[0]


def answers(**values: Any) -> Behaviour:
    """A pipeline that answers and then writes these values into its result."""

    def behaviour(_: Cancellation, result: GenerationResult) -> Generator[str]:
        yield "a"
        result.finish_reason = "stop"
        for name, value in values.items():
            setattr(result, name, value)

    return behaviour
