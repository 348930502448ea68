"""PipelineFactory: loads models at their first request and keeps the recently used ones."""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from nodespan.engine.llama_cpp.pipeline import LlamaCppPipeline
from nodespan.engine.openai_compatible.pipeline import OpenAICompatiblePipeline
from nodespan.errors import ConfigurationError, UnknownProfileError
from nodespan.runner.event_loop import close_event_loop
from nodespan.runner.scheduler import Lane, Scheduler
from nodespan.runner.scheduler_metrics import READINGS
from nodespan.spans.exits import end_before_telemetry
from nodespan.spans.instruments import get_instruments
from nodespan.types import ModelProfile

if TYPE_CHECKING:
    import threading
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

    from nodespan.engine.contract import AsyncPipeline, Pipeline
    from nodespan.runner.generation import Generation

_EXIT_PATIENCE_S: Final = 2.0
"""Models are freed within milliseconds after their last token; the remaining time is for slow tokens."""

_schedulers: Final[weakref.WeakSet[Scheduler]] = weakref.WeakSet()


class PipelineFactory:
    """The models of a program, and the order of the requests for them.

    A model is loaded at its first request, once. A model in this process generates for one request at a time, a model
    behind a server for as many at once as the server has slots. Requests wait by priority, then by arrival. When
    ``max_loaded`` models are loaded and another one is requested, the least recently used idle model is freed; while
    all are generating, the request waits.

    Safe from any thread. After a fork the child loads its models again; streams that were open there end with a
    ``PipelineClosedError``.

    Args:
        profiles: The models by profile type.
        max_loaded: Maximum number of models that are loaded in this process at once.
        create: Loads a model: a class, or a function of a ``ModelProfile`` that returns a ``Pipeline`` or an
            ``AsyncPipeline``. Its ``check_profile``, if any, is called here for each profile. If not given, a profile
            with a ``base_url`` has an ``OpenAICompatiblePipeline``, any other a ``LlamaCppPipeline``.
        meter_provider: Records queues, loaded models and evictions; the global provider if not given.

    Raises:
        ConfigurationError: No profile is given, one is invalid, or two have the same number.
        ModelLoadError: A model file is missing or not a GGUF file.
        MissingDependencyError: ``create`` needs a package that is not installed.
    """

    def __init__(
        self,
        profiles: Mapping[IntEnum, ModelProfile],
        *,
        max_loaded: int = 1,
        create: Callable[[ModelProfile], Pipeline | AsyncPipeline] | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        if max_loaded < 1:
            raise ConfigurationError(f"PipelineFactory(max_loaded={max_loaded}) is invalid. Give 1 or more.")
        self._profiles = _checked(profiles)
        self._scheduler = Scheduler(max_loaded, meter_provider)
        for profile_type, profile in self._profiles.items():
            make = create or (OpenAICompatiblePipeline if profile.base_url else LlamaCppPipeline)
            if (check := getattr(make, "check_profile", None)) is not None:
                check(profile)
            self._scheduler.lanes[int(profile_type)] = Lane(self._scheduler, profile, make)
        _schedulers.add(self._scheduler)
        # At exit ``_close_at_exit`` waits for the models to be freed.
        weakref.finalize(self, Scheduler.close, self._scheduler).atexit = False

    def profile(self, profile_type: IntEnum) -> ModelProfile:
        """The profile of that type.

        Raises:
            UnknownProfileError: The factory has no such profile, or has one with the same number of another class.
        """
        # Members of different IntEnums are equal, and so one key of a dict, when their numbers are.
        for known, profile in self._profiles.items():
            if known is profile_type:
                return profile
        raise UnknownProfileError(
            f"The PipelineFactory has no profile {profile_type!r}. It has: {', '.join(map(repr, self._profiles))}. "
            "Request one of them, or pass a profile for this type, with a unique number, to the factory."
        )

    def lane(self, profile_type: IntEnum) -> Lane:
        """The lane of a profile. For the Runner.

        Raises:
            UnknownProfileError: The factory has no such profile.
        """
        self.profile(profile_type)
        return self._scheduler.lanes[int(profile_type)]

    def submit(self, lane: Lane, generation: Generation) -> None:
        """Queues a generation. For the Runner.

        Raises:
            PipelineClosedError: The factory was closed.
        """
        scheduler = self._scheduler
        get_instruments(scheduler.meter_provider).observe(scheduler, READINGS)
        with scheduler.changed:
            scheduler.submit(lane, generation)

    def queue_length(self, profile_type: IntEnum) -> Counter[int]:
        """Number of requests that wait for that model, by priority."""
        return +Counter(self.lane(profile_type).queue_lengths())

    def running(self, profile_type: IntEnum) -> Generation | None:
        """The oldest generation of that model in progress."""
        return next(iter(self.lane(profile_type).running.copy()), None)

    def is_loaded(self, profile_type: IntEnum) -> bool:
        """Whether that model is loaded, is being loaded, or is being freed."""
        with self._scheduler.changed:
            return self._scheduler.holds(self.lane(profile_type))

    @property
    def evictions(self) -> int:
        """Number of models that were freed to load another."""
        return self._scheduler.evictions

    def close(self) -> None:
        """Stops running and waiting generations and frees all models, then returns. May be called twice."""
        for thread in self._scheduler.close():
            thread.join()

    def __enter__(self) -> PipelineFactory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _checked(profiles: Mapping[IntEnum, ModelProfile]) -> dict[IntEnum, ModelProfile]:
    if not profiles:
        raise ConfigurationError(
            "PipelineFactory requires at least one profile. "
            "Type: PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path='model.gguf')})."
        )
    by_number: dict[int, IntEnum] = {}
    for profile_type, profile in profiles.items():
        if not isinstance(profile_type, IntEnum) or not isinstance(profile, ModelProfile):  # pyright: ignore[reportUnnecessaryIsInstance] callers without types
            raise ConfigurationError(
                f"PipelineFactory(profiles=...) has {profile_type!r}: {type(profile).__name__}. "
                "Give an IntEnum such as ModelProfileType.Primary, and a ModelProfile."
            )
        if (other := by_number.setdefault(int(profile_type), profile_type)) is not profile_type:
            raise ConfigurationError(
                f"PipelineFactory(profiles=...) has {other!r} and {profile_type!r}, which have the same number. "
                "Give each profile type a different number."
            )
    return dict(profiles)


def _close_at_exit() -> None:
    """Frees the models before the interpreter exits; slower ones are freed by the end of the process."""
    patient_until = time.monotonic() + _EXIT_PATIENCE_S
    threads: list[threading.Thread] = [thread for one in list(_schedulers) for thread in one.close()]
    for thread in threads:
        thread.join(max(0.0, patient_until - time.monotonic()))
    close_event_loop(max(0.1, patient_until - time.monotonic()))


def _start_anew_in_child() -> None:
    for scheduler in list(_schedulers):
        scheduler.forget()


end_before_telemetry(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)
