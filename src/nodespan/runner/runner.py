"""Runner: sends requests to models and streams their answers, with a span for every call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodespan.errors import ConfigurationError
from nodespan.runner.generation import Generation
from nodespan.runner.stream import PipelineStream
from nodespan.spans.instruments import get_instruments
from nodespan.spans.scope import get_tracer
from nodespan.types import ModelProfileType, PipelinePriority

if TYPE_CHECKING:
    from enum import IntEnum

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from nodespan.runner.factory import PipelineFactory
    from nodespan.types import GenerationRequest


class Runner:
    """Streams answers of a factory's models. Cheap to create; safe from any thread and any event loop.

    Args:
        pipeline_factory: Holds the models; several runners may share it.
        tracer_provider: Creates the spans; the global provider if not given.
        meter_provider: Records the metrics; the global provider if not given.
    """

    def __init__(
        self,
        pipeline_factory: PipelineFactory,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._factory = pipeline_factory
        self._tracer = get_tracer(tracer_provider)
        self._meter_provider = meter_provider

    def stream_pipeline(
        self,
        request: GenerationRequest,
        *,
        profile_type: IntEnum = ModelProfileType.Primary,
        priority: int = PipelinePriority.NORMAL,
        deadline_s: float | None = None,
    ) -> PipelineStream:
        """Requests a generation. Returns at once; loading, waiting and generating run on the model's own thread.

        The span ``chat {model}`` or ``text_completion {model}`` is a child of the span that is current here.

        Args:
            request: Messages or a prompt.
            profile_type: Selects the factory's model.
            priority: Waiting requests are served by priority, the highest first, then by arrival.
            deadline_s: Time limit from now to the end, waiting and loading included. When it passes, the model is
                stopped and reading the stream raises ``DeadlineExceededError``.

        Raises:
            UnknownProfileError: The factory has no such profile.
            ConfigurationError: ``deadline_s`` is not above 0.
            PipelineClosedError: The factory was closed.
        """
        lane = self._factory.lane(profile_type)
        if deadline_s is not None and not deadline_s > 0:
            raise ConfigurationError(
                f"stream_pipeline(deadline_s={deadline_s}) is invalid. Give a number of seconds above 0."
            )
        generation = Generation(
            request,
            lane.model,
            self._tracer,
            get_instruments(self._meter_provider),
            priority=int(priority),
            deadline_s=deadline_s,
        )
        try:
            self._factory.submit(lane, generation)
        except BaseException as error:  # also an interrupt: the span ends
            generation.fail(error)
            raise
        return PipelineStream(generation, self._factory)
