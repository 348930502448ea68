"""A generator that is enclosed ends what it encloses, whether or not it is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator

import pytest

from nodespan.instrumentation._steps import Open, Suppressed, in_async_steps, in_steps

opens = pytest.mark.parametrize("open_work", [lambda: None, Suppressed], ids=["not recorded", "suppressed"])


@opens
async def test_closing_an_async_generator_early_closes_the_enclosed_one(open_work: Open) -> None:
    ended: list[bool] = []

    async def counts() -> AsyncGenerator[int]:
        try:
            for number in range(3):
                yield number
        finally:
            await asyncio.sleep(0.01)  # closing that is not awaited ends later than aclose()
            ended.append(True)

    steps = in_async_steps(open_work, counts())
    assert await anext(steps) == 0
    await steps.aclose()
    assert ended == [True]


@opens
def test_closing_a_generator_early_closes_the_enclosed_one(open_work: Open) -> None:
    ended: list[bool] = []

    def counts() -> Generator[int]:
        try:
            yield from range(3)
        finally:
            ended.append(True)

    kept = counts()
    steps = in_steps(open_work, kept)
    assert next(steps) == 0
    steps.close()
    assert ended == [True]


@opens
async def test_an_async_iterator_without_a_close_is_read_to_its_end(open_work: Open) -> None:
    class Counts:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Counts:
            return self

        async def __anext__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return self.left

    assert [number async for number in in_async_steps(open_work, Counts())] == [2, 1, 0]  # type: ignore[arg-type]
    steps = in_async_steps(open_work, Counts())  # type: ignore[arg-type]
    assert await anext(steps) == 2
    await steps.aclose()
