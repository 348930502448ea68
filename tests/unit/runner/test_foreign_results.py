"""Pipelines that write anything into their result: the reader reaches an end and has the other facts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from foreign_pipelines import FORMS, PROFILES, Model, Odd, Stand, answers, iter_words, read
from measured import Measured
from nodespan import semconv
from nodespan.runner import PipelineFactory, Runner
from nodespan.types import ModelProfile
from pipelines import raw


class Raising:
    """Raises at every use but the question for its class, which the garbage collector's users ask."""

    def __init__(self, error: BaseException) -> None:
        object.__setattr__(self, "error", error)

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Raising
        raise object.__getattribute__(self, "error")

    def __bool__(self) -> bool:
        raise object.__getattribute__(self, "error")

    __str__ = __iter__ = __len__ = __call__ = __bool__  # type: ignore[assignment]


class RaisingList(list[Any]):
    def __iter__(self) -> Any:
        raise SystemExit(3)


class RaisingDict(dict[str, Any]):
    def keys(self) -> Any:
        raise SystemExit(3)

    __iter__ = keys


VALUES: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "a number": lambda: 3,
    "an object": Odd,
    "a list of objects": lambda: [Odd()],
    "a dict of objects": lambda: {Odd(): Odd()},
    "raises": lambda: Raising(ValueError()),
    "exits": lambda: Raising(SystemExit(3)),
    "a list that exits": lambda: RaisingList([1]),
    "a dict that exits": lambda: RaisingDict(a=1),
}
FIELDS = (
    "phases", "attributes", "tool_calls", "logprobs", "reasoning", "prefix", "evaluated", "finish_reason", "provider",
    "output_tokens", "first_token_at",
)  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", FIELDS)
def test_any_value_of_any_field_leaves_an_end_and_the_other_facts(stand: Stand, field: str, value: str) -> None:
    stand.behaviour = answers(input_tokens=3, **{field: VALUES[value]()})
    stream = stand.ask()
    assert read(stream) == (["a"], None)
    assert stream.metadata is not None
    assert (stream.metadata.finish_reason, stream.metadata.input_tokens) == ("stop", 3)
    assert (stream.tool_calls, stream.reasoning) == ((), "")
    assert stand.serves_on()


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_was_deleted_leaves_an_end(stand: Stand, field: str) -> None:
    def behaviour(_: Any, result: Any) -> Any:
        yield "a"
        delattr(result, field)

    stand.behaviour = behaviour
    stream = stand.ask()
    pieces, _ = read(stream)
    assert pieces == ["a"]
    assert stream.metadata is not None
    assert stand.serves_on()


def test_an_impossible_collection_is_counted(stand: Stand, measured: Measured) -> None:
    stand.behaviour = answers(phases=None, attributes=None)
    read(stand.ask())
    counted = measured.of(semconv.TELEMETRY_ERRORS, semconv.TELEMETRY_ERROR_KIND)
    assert counted == {"read a pipeline's measurements": 2}


def raising(error: BaseException) -> Any:
    def read_it(_: object) -> Any:
        raise error

    return property(read_it)


@pytest.mark.parametrize("error", [RuntimeError(), SystemExit(3)], ids=["RuntimeError", "SystemExit"])
@pytest.mark.parametrize("name", ["slots", "generate", "agenerate", "close", "aclose"])
@pytest.mark.parametrize("form", FORMS)
def test_an_attribute_of_a_pipeline_that_raises_leaves_an_end_and_one_thread(
    form: Any, name: str, error: BaseException, measured: Measured
) -> None:
    def create(profile: ModelProfile) -> Any:
        made = type("Broken", (form,), {name: raising(error)}) if profile.name == "foreign" else form
        return made(lambda _cancellation, _result: iter_words(""))

    ended: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", ended.append)
        with PipelineFactory(PROFILES, create=create, meter_provider=measured.provider) as factory:
            runner = Runner(factory, meter_provider=measured.provider)
            for _ in range(2):
                pieces, raised = read(runner.stream_pipeline(raw("well"), profile_type=Model.FOREIGN))
                assert raised is error or (pieces, raised) == (["well"], None)
            healthy = runner.stream_pipeline(raw("well too"), profile_type=Model.HEALTHY)
            assert read(healthy) == (["well", "too"], None)
    assert len(ended) <= 2  # each of the requests may end the thread that it ran on; nothing ends its successor
