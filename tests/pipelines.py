"""Shared by the tests of the runner: requests, and a pipeline that the test controls step by step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from nodespan.runner import Cancellation, GenerationResult
from nodespan.types import GenerationRequest, ModelProfile, Sampling

PATIENCE_S = 60.0


def chat(text: str, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(messages=[{"role": "user", "content": text}], sampling=Sampling(**sampling))


def raw(text: str, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(prompt=text, sampling=Sampling(**sampling))


def wait_for(condition: Callable[[], Any], what: str = "") -> Any:
    """Polls until the condition holds; shows the last value seen if it does not."""
    until = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < until, f"still {value!r} after {PATIENCE_S} s: {what or condition}"
        time.sleep(0.001)
    return value


@dataclass
class Stage:
    """The model that a test plays: what happened, in order, and what may happen next.

    A prompt is a list of words; each is one piece and one token. It waits before a piece for ``let(1)``, unless
    ``free``.
    """

    free: bool = True
    is_async: bool = False
    slots: int = 1
    load_error: BaseException | None = None
    may_load: threading.Event = field(default_factory=threading.Event)
    log: list[str] = field(default_factory=list)
    look: Callable[[], object] = lambda: None
    threads: set[int] = field(default_factory=set)
    busy: int = 0
    most_busy: int = 0
    overlaps: int = 0
    most_loaded: int = 0
    loaded: int = 0
    _steps: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.may_load.set()

    def let(self, pieces: int) -> None:
        self._steps.release(pieces)

    def create(self, profile: ModelProfile) -> StagedPipeline | AsyncStagedPipeline:
        self.log.append(f"load {profile.model_name}")
        assert self.may_load.wait(PATIENCE_S)
        if self.load_error is not None:
            raise self.load_error
        self.loaded += 1
        self.most_loaded = max(self.most_loaded, self.loaded)
        return (AsyncStagedPipeline if self.is_async else StagedPipeline)(self, profile.model_name)

    def step(self, cancellation: Cancellation) -> None:
        self.look()
        while not self.free and not cancellation.requested and not self._steps.acquire(timeout=0.002):
            pass

    async def astep(self, cancellation: Cancellation) -> None:
        self.look()
        await asyncio.sleep(0)
        while not self.free and not cancellation.requested and not self._steps.acquire(blocking=False):
            await asyncio.sleep(0.002)


class AsyncStagedPipeline:
    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.slots = stage.slots
        self.is_closed = False

    async def agenerate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> AsyncGenerator[str]:
        assert not self.is_closed
        stage = self.stage
        stage.threads.add(threading.get_ident())
        stage.overlaps += stage.busy >= self.slots
        stage.busy += 1
        stage.most_busy = max(stage.most_busy, stage.busy)
        stage.log.append(f"begin {request.prompt}")
        result.output_tokens = 0
        try:
            for word in (request.prompt or "").split():
                await stage.astep(cancellation)
                if cancellation.requested:
                    return
                if word == "raise":
                    raise ValueError("the model's own error")
                result.output_tokens += 1
                yield word
            result.finish_reason = "stop"
        finally:
            stage.busy -= 1
            stage.log.append(f"end {request.prompt}")

    async def aclose(self) -> None:
        if not self.is_closed:
            self.stage.loaded -= 1
            self.stage.log.append(f"close {self.name}")
        self.is_closed = True


class StagedPipeline:
    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.is_closed = False
        self.thread = threading.get_ident()

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        assert threading.get_ident() == self.thread
        assert not self.is_closed
        stage = self.stage
        stage.overlaps += stage.busy
        stage.busy += 1
        stage.log.append(f"begin {request.prompt}")
        result.output_tokens = 0
        try:
            for word in (request.prompt or "").split():
                stage.step(cancellation)
                if cancellation.requested:
                    return
                if word == "raise":
                    raise ValueError("the model's own error")
                result.output_tokens += 1
                yield word
            result.finish_reason = "stop"
        finally:
            assert threading.get_ident() == self.thread
            stage.busy -= 1
            stage.log.append(f"end {request.prompt}")

    def close(self) -> None:
        assert threading.get_ident() == self.thread
        if not self.is_closed:
            self.stage.loaded -= 1
            self.stage.log.append(f"close {self.name}")
        self.is_closed = True
