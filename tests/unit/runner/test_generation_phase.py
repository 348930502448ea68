"""The phase of a generation before its model works, read from another thread while it waits."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider

from nodespan.runner import PipelineFactory, Runner
from nodespan.spans.phases import phase_of
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import Stage, raw, wait_for


class Started(SpanProcessor):
    """Ids of the spans of generations, in the order in which they started."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.name == "text_completion m":
            self.ids.append(span.get_span_context().span_id)


def test_generations_are_loading_and_queued_in_their_order(stage: Stage) -> None:
    started = Started()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(started)
    stage.may_load.clear()
    before_ns = time.time_ns()
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(name="m")}, create=stage.create) as factory:
        runner = Runner(factory, tracer_provider=provider)
        streams = [runner.stream_pipeline(raw(prompt)) for prompt in ("a", "b", "c")]

        def found() -> list[Any]:
            return [phase_of(span_id) for span_id in started.ids]

        def words() -> list[Any]:
            return [phase and (phase.name, phase.position) for phase in found()]

        wait_for(lambda: words() == [("loading", None), ("queued", 1), ("queued", 2)])
        assert all(before_ns <= phase.since_ns <= time.time_ns() for phase in found())
        stage.may_load.set()
        for stream in streams:
            list(stream)
