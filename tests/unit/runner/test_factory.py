"""Guarantees of the factory about loading, sharing and freeing models."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from nodespan.errors import ConfigurationError, ModelLoadError, PipelineClosedError, UnknownProfileError
from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.testing import EchoPipeline
from nodespan.types import ModelProfile, ModelProfileType, PipelinePriority
from pipelines import Stage, raw, wait_for


class Size(IntEnum):
    SMALL = 0
    MIDDLE = 1
    LARGE = 2


PROFILES = {size: ModelProfile(name=size.name.lower()) for size in Size}
Ask = Callable[..., PipelineStream]


@pytest.fixture
def factory(stage: Stage) -> Iterator[PipelineFactory]:
    with PipelineFactory(PROFILES, create=stage.create) as factory:
        yield factory


@pytest.fixture
def ask(factory: PipelineFactory) -> Ask:
    runner = Runner(factory)

    def ask(prompt: str, size: Size = Size.SMALL, **options: Any) -> PipelineStream:
        return runner.stream_pipeline(raw(prompt), profile_type=size, **options)

    return ask


def read(stream: PipelineStream) -> str:
    return " ".join(chunk.content for chunk in stream)


def test_a_model_is_loaded_at_its_first_request_and_once(stage: Stage, ask: Ask) -> None:
    assert stage.log == []
    first, second = ask("a b"), ask("c")
    assert (read(first), read(second)) == ("a b", "c")
    assert stage.log.count("load small") == 1
    assert first.metadata is not None
    assert second.metadata is not None
    assert (first.metadata.cache_status, second.metadata.cache_status) == ("loaded", "hit")
    assert first.metadata.load_s is not None
    assert second.metadata.load_s is None


def test_many_first_calls_at_once_load_it_once(stage: Stage, ask: Ask) -> None:
    stage.may_load.clear()
    together = threading.Barrier(16)
    texts: list[str] = []

    def call(number: int) -> None:
        together.wait()
        texts.append(read(ask(f"n{number}")))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    stage.may_load.set()
    for thread in threads:
        thread.join()
    assert sorted(texts) == sorted(f"n{number}" for number in range(16))
    assert stage.log.count("load small") == 1
    assert stage.overlaps == 0


def test_one_generation_at_a_time_for_all_runners(stage: Stage, factory: PipelineFactory) -> None:
    streams = [Runner(factory).stream_pipeline(raw("a b c"), profile_type=Size.SMALL) for _ in range(10)]
    for stream in streams:
        read(stream)
    assert stage.overlaps == 0
    assert stage.log.count("begin a b c") == 10


def test_waiting_requests_are_ordered_by_priority_then_arrival(
    stage: Stage, ask: Ask, factory: PipelineFactory
) -> None:
    stage.free = False
    running = ask("running")
    wait_for(lambda: "begin running" in stage.log)
    waiting = [
        ask("normal1"),
        ask("low", priority=PipelinePriority.LOW),
        ask("critical", priority=PipelinePriority.CRITICAL),
        ask("normal2"),
        ask("high", priority=PipelinePriority.HIGH),
    ]
    assert factory.queue_length(Size.SMALL) == {10: 2, 1: 1, 20: 1, 11: 1}
    stage.free = True
    for stream in [running, *waiting]:
        read(stream)
    begun = [line.removeprefix("begin ") for line in stage.log if line.startswith("begin")]
    assert begun == ["running", "critical", "high", "normal1", "normal2", "low"]
    assert factory.queue_length(Size.SMALL) == {}


def test_waiting_is_measured(stage: Stage, ask: Ask) -> None:
    stage.free = False
    asked_at = time.perf_counter()
    first, second = ask("a"), ask("b")
    wait_for(lambda: "begin a" in stage.log)
    begun_at = time.perf_counter()
    threading.Timer(0.05, stage.let, (2,)).start()
    read(first)
    read(second)
    assert first.metadata is not None
    assert second.metadata is not None
    assert second.metadata.queue_s is not None
    assert first.metadata.queue_s is not None
    assert first.metadata.queue_s <= begun_at - asked_at
    assert second.metadata.queue_s > 0.05


def test_a_cancelled_request_leaves_the_queue_and_is_never_run(
    stage: Stage, ask: Ask, factory: PipelineFactory
) -> None:
    stage.free = False
    running, waiter = ask("running"), ask("waiter")
    wait_for(lambda: "begin running" in stage.log)
    waiter.close()
    assert waiter.metadata is not None
    assert waiter.metadata.finish_reason == "cancelled"
    assert factory.queue_length(Size.SMALL) == {}
    stage.free = True
    read(running)
    read(ask("last"))
    assert "begin waiter" not in stage.log


def test_the_least_recently_used_model_is_evicted(stage: Stage) -> None:
    with PipelineFactory(PROFILES, max_loaded=2, create=stage.create) as factory:
        runner = Runner(factory)
        for size in (Size.SMALL, Size.MIDDLE, Size.SMALL, Size.LARGE):
            read(runner.stream_pipeline(raw("a"), profile_type=size))
        assert [factory.is_loaded(size) for size in Size] == [True, False, True]
        assert factory.evictions == 1
    assert [line for line in stage.log if not line.endswith(" a")] == [
        "load small",
        "load middle",
        "close middle",
        "load large",
        *[line for line in stage.log if line.startswith("close")][1:],
    ]
    assert stage.most_loaded == 2
    assert stage.loaded == 0


def test_a_model_in_use_is_not_evicted(stage: Stage, ask: Ask) -> None:
    stage.free = False
    small = ask("s1 s2", Size.SMALL)
    wait_for(lambda: "begin s1 s2" in stage.log)
    middle = ask("m", Size.MIDDLE)
    stage.let(1)
    assert next(small).content == "s1"
    assert "close small" not in stage.log
    stage.free = True
    assert (read(small), read(middle)) == ("s2", "m")
    assert stage.log.index("end s1 s2") < stage.log.index("close small") < stage.log.index("load middle")
    assert stage.most_loaded == 1


def test_a_request_for_another_model_is_served_before_later_requests(stage: Stage, ask: Ask) -> None:
    stage.free = False
    streams = [ask("first", Size.SMALL)]
    wait_for(lambda: "begin first" in stage.log)
    streams += [ask("other", Size.MIDDLE), *(ask(f"later{n}", Size.SMALL) for n in range(3))]
    stage.free = True
    for stream in streams:
        read(stream)
    begun = [line.removeprefix("begin ") for line in stage.log if line.startswith("begin")]
    assert begun == ["first", "other", "later0", "later1", "later2"]
    assert stage.most_loaded == 1


def test_two_models_that_fit_run_side_by_side(stage: Stage) -> None:
    """Also if the lane of lower rank checks first and waits for the other."""
    for _ in range(20):
        stage.free = False
        with PipelineFactory(PROFILES, max_loaded=2, create=stage.create) as factory:
            runner = Runner(factory)
            with factory._scheduler.changed:  # no lane checks before both exist; the older one probably checks first
                low = runner.stream_pipeline(raw("low"), profile_type=Size.LARGE, priority=1)
                high = runner.stream_pipeline(raw("high"), profile_type=Size.SMALL, priority=2)
            wait_for(lambda: stage.busy == 2)
            stage.free = True
            assert (read(low), read(high)) == ("low", "high")


def test_the_model_is_idle_once_a_stream_is_read_to_its_end(stage: Stage, ask: Ask, factory: PipelineFactory) -> None:
    for _ in range(300):
        read(ask("a"))
        assert factory.running(Size.SMALL) is None


def test_many_callers_of_three_models_with_room_for_one_receive_their_answer(stage: Stage, ask: Ask) -> None:
    prompts = [f"p{number}" for number in range(60)]
    streams = [ask(prompt, Size(number % 3), priority=number % 5) for number, prompt in enumerate(prompts)]
    assert [read(stream) for stream in streams] == prompts
    assert stage.most_loaded == 1
    assert stage.overlaps == 0


def test_a_load_error_is_raised_in_the_reader_and_the_next_call_loads_again(stage: Stage, ask: Ask) -> None:
    stage.load_error = ModelLoadError("no memory")
    stream = ask("a")
    with pytest.raises(ModelLoadError, match="no memory"):
        read(stream)
    assert stream.metadata is not None
    assert (stream.metadata.finish_reason, stream.metadata.error_type) == ("error", "nodespan.errors.ModelLoadError")
    stage.load_error = None
    assert read(ask("b")) == "b"


def test_close_stops_all_generations_and_frees_the_model(stage: Stage, ask: Ask, factory: PipelineFactory) -> None:
    stage.free = False
    running, waiting = ask("a b"), ask("c")
    stage.let(1)
    assert next(running).content == "a"
    (thread,) = [lane.thread for lane in factory._scheduler.lanes.values() if lane.thread is not None]
    factory.close()
    assert not thread.is_alive()
    for stream in (running, waiting):
        with pytest.raises(PipelineClosedError):
            read(stream)
    assert stage.loaded == 0
    with pytest.raises(PipelineClosedError):
        ask("d")
    factory.close()


def test_a_factory_that_is_dropped_frees_its_models(stage: Stage) -> None:
    factory = PipelineFactory(PROFILES, create=stage.create)
    read(Runner(factory).stream_pipeline(raw("a"), profile_type=Size.SMALL))
    assert stage.loaded == 1
    del factory
    gc.collect()
    wait_for(lambda: stage.loaded == 0)


def test_a_stream_references_its_factory(stage: Stage) -> None:
    stream = Runner(PipelineFactory(PROFILES, create=stage.create)).stream_pipeline(raw("a b"), profile_type=Size.SMALL)
    gc.collect()
    assert read(stream) == "a b"


def test_an_idle_model_does_not_reference_its_requests(stage: Stage, ask: Ask) -> None:
    stream = ask("a")
    read(stream)
    generation = weakref.ref(stream._generation)
    del stream
    wait_for(lambda: gc.collect() is not None and generation() is None)


def test_an_unknown_profile_is_refused_and_the_known_ones_are_named(factory: PipelineFactory) -> None:
    class Mine(IntEnum):
        TINY = 7

    for call in (factory.profile, lambda mine: Runner(factory).stream_pipeline(raw("a"), profile_type=mine)):
        with pytest.raises(UnknownProfileError, match=r"(?s)Mine\.TINY.*Size\.SMALL.*Size\.LARGE"):
            call(Mine.TINY)


class Other(IntEnum):
    NULL = 0


def test_another_enum_with_the_same_number_is_refused(factory: PipelineFactory) -> None:
    """IntEnums of one number are equal, so one of two such keys of a dict replaces the other unseen."""
    for mine in (Other.NULL, ModelProfileType.Primary):
        with pytest.raises(UnknownProfileError, match=r"(?s)no profile.*Size\.SMALL.*unique number"):
            factory.profile(mine)
        with pytest.raises(UnknownProfileError):
            Runner(factory).stream_pipeline(raw("a"), profile_type=mine)


def test_a_profile_type_with_the_number_of_another_is_unknown() -> None:
    replaced = {ModelProfileType.Primary: ModelProfile(name="a"), Other.NULL: ModelProfile(name="b")}
    assert len(replaced) == 1
    with PipelineFactory(replaced, create=EchoPipeline) as factory, pytest.raises(UnknownProfileError):
        factory.profile(Other.NULL)


class _Pairs(dict[Any, Any]):
    """A mapping that distinguishes equal keys."""

    def items(self) -> Any:
        return [(ModelProfileType.Primary, ModelProfile(name="a")), (Other.NULL, ModelProfile(name="b"))]


def test_two_profiles_of_one_number_are_refused_at_set_up() -> None:
    with pytest.raises(ConfigurationError, match=r"Primary.*NULL.*same number"):
        PipelineFactory(_Pairs({1: 2}), create=EchoPipeline)


def test_a_missing_model_file_is_refused_at_set_up(tmp_path: Path) -> None:
    profile = ModelProfile(model_path=tmp_path / "absent.gguf")
    with pytest.raises(ModelLoadError, match=r"absent\.gguf.*No such file.*model_path="):
        PipelineFactory({ModelProfileType.Primary: profile})


def test_a_file_that_is_no_gguf_is_refused_at_set_up(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ModelLoadError, match=r"not a GGUF file: it begins with b'<htm'"):
        PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=path)})


def test_a_directory_as_model_is_refused_at_set_up(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="Is a directory"):
        PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=tmp_path)})


def test_a_profile_without_a_file_is_refused_at_set_up() -> None:
    with pytest.raises(ConfigurationError, match="no model_path"):
        PipelineFactory({ModelProfileType.Primary: ModelProfile(name="x")})


@pytest.mark.parametrize(
    ("profiles", "options", "message"),
    [
        ({}, {}, "at least one profile"),
        (PROFILES, {"max_loaded": 0}, "max_loaded=0"),
        ({"primary": ModelProfile()}, {}, "Give an IntEnum"),
        ({Size.SMALL: "model.gguf"}, {}, "and a ModelProfile"),
        ({Size.SMALL: ModelProfile(options={"dely_s": 1})}, {}, "dely_s.*delay_s"),
    ],
)
def test_invalid_arguments_are_refused_with_the_allowed_values(profiles: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PipelineFactory(profiles, create=EchoPipeline, **options)
