"""PipelineFactory: loads models when they are first asked for and keeps those that are used."""

from __future__ import annotations

import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from nodespan.engine.llama_cpp.pipeline import LlamaCppPipeline
from nodespan.errors import ConfigurationError, UnknownProfileError
from nodespan.runner.lane import Lane
from nodespan.runner.pool import Pool
from nodespan.runner.pool_metrics import READINGS
from nodespan.spans.exits import end_before_telemetry
from nodespan.spans.instruments import get_instruments
from nodespan.types import ModelProfile

if TYPE_CHECKING:
    import threading
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider

    from nodespan.engine.contract import Pipeline
    from nodespan.runner.generation import Generation

_EXIT_PATIENCE_S: Final = 2.0
"""Models are freed in milliseconds once their last token is out; the rest of this is for slow tokens."""

_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()


class PipelineFactory:
    """The models of a program: which there are, and who may use which.

    A model is loaded when it is first asked for, once, and generates for one request at a time, whoever asks; those
    that wait go by priority, then by arrival. When another model needs the room, the one not used for longest makes it,
    never one that is generating: who asks waits until one is idle. A stream that nobody reads to its end holds its
    model until it is closed or dropped.

    Safe from any thread. After a fork the child loads its models anew; streams that were open there end with a
    ``PipelineClosedError``.

    Args:
        profiles: The models by profile type.
        max_loaded: How many may be loaded at once.
        create: Loads a model: a class such as ``LlamaCppPipeline``, or anything that takes a ``ModelProfile`` and
            returns a ``Pipeline``. If it has a ``check_profile``, that is called here for each profile.
        meter_provider: Where queues, loaded models and evictions count; the global provider if not given.

    Raises:
        ConfigurationError: There is no profile, or one of them cannot work.
        ModelLoadError: A model file is missing or is no GGUF file.
        MissingDependencyError: ``create`` needs a package that is not installed.
    """

    def __init__(
        self,
        profiles: Mapping[IntEnum, ModelProfile],
        *,
        max_loaded: int = 1,
        create: Callable[[ModelProfile], Pipeline] = LlamaCppPipeline,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        if max_loaded < 1:
            raise ConfigurationError(f"PipelineFactory(max_loaded={max_loaded}) could load no model. Give 1 or more.")
        self._profiles = _checked(profiles, getattr(create, "check_profile", None))
        self.pipeline_type: Final = getattr(create, "__name__", type(create).__name__)
        self._pool = Pool(max_loaded, meter_provider)
        for profile_type, profile in self._profiles.items():
            self._pool.lanes[int(profile_type)] = Lane(self._pool, profile, create)
        _pools.add(self._pool)
        weakref.finalize(self, Pool.close, self._pool).atexit = False  # at exit it is done with patience, see below

    def profile(self, profile_type: IntEnum) -> ModelProfile:
        """The profile of that type.

        Raises:
            UnknownProfileError: There is none.
        """
        profile = self._profiles.get(profile_type)
        if profile is None:
            raise UnknownProfileError(
                f"The PipelineFactory has no profile {profile_type!r}. "
                f"It has: {', '.join(map(repr, self._profiles))}. Ask for one of them, or give it to the factory."
            )
        return profile

    def submit(self, profile_type: IntEnum, generation: Generation) -> None:
        """Queues a generation for the model of that profile type. For the Runner.

        Raises:
            PipelineClosedError: The factory was closed.
        """
        pool = self._pool
        get_instruments(pool.meter_provider).observe(pool, READINGS)
        with pool.changed:
            pool.submit(pool.lanes[int(profile_type)], generation)

    def queue_length(self, profile_type: IntEnum) -> Counter[int]:
        """How many wait for that model, by priority."""
        return +Counter(self._pool.lanes[int(profile_type)].queue_lengths())

    def running(self, profile_type: IntEnum) -> Generation | None:
        """The generation that the model is busy with."""
        return self._pool.lanes[int(profile_type)].running

    def is_loaded(self, profile_type: IntEnum) -> bool:
        """Whether that model takes room, be it that it is just being loaded or freed."""
        with self._pool.changed:
            return self._pool.holds(self._pool.lanes[int(profile_type)])

    @property
    def evictions(self) -> int:
        """How many models were freed to make room for another."""
        return self._pool.evictions

    def close(self) -> None:
        """Stops what runs and what waits, and frees all models; returns when that is done. May be called twice."""
        for thread in self._pool.close():
            thread.join()

    def __enter__(self) -> PipelineFactory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _checked(
    profiles: Mapping[IntEnum, ModelProfile], check: Callable[[ModelProfile], None] | None
) -> dict[IntEnum, ModelProfile]:
    if not profiles:
        raise ConfigurationError(
            "PipelineFactory got no profile. "
            "Type: PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path='model.gguf')})."
        )
    for profile_type, profile in profiles.items():
        if not isinstance(profile_type, IntEnum) or not isinstance(profile, ModelProfile):  # pyright: ignore[reportUnnecessaryIsInstance] callers without types
            raise ConfigurationError(
                f"PipelineFactory got {profile_type!r}: {type(profile).__name__}. "
                "Give an IntEnum such as ModelProfileType.Primary, and a ModelProfile."
            )
        if check is not None:
            check(profile)
    return dict(profiles)


def _close_at_exit() -> None:
    """Frees the models while Python still can; what takes longer is left to the end of the process."""
    patient_until = time.monotonic() + _EXIT_PATIENCE_S
    threads: list[threading.Thread] = [thread for pool in list(_pools) for thread in pool.close()]
    for thread in threads:
        thread.join(max(0.0, patient_until - time.monotonic()))


def _start_anew_in_child() -> None:
    for pool in list(_pools):
        pool.forget()


end_before_telemetry(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)
