"""One model that a test plays step by step, and a way to request its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from foreign_pipelines import FORMS, Stand
from measured import Measured
from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import PATIENCE_S, Stage, raw

Ask = Callable[..., PipelineStream]


@pytest.fixture(params=["generate", "agenerate"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """In both forms of the contract."""
    return Stage(is_async=request.param == "agenerate")


@pytest.fixture
def ask(stage: Stage) -> Iterator[Ask]:
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(name="m")}, create=stage.create) as factory:
        yield lambda prompt, **options: Runner(factory).stream_pipeline(raw(prompt), **options)


@pytest.fixture(params=FORMS)
def stand(request: pytest.FixtureRequest, tracer_provider: TracerProvider, measured: Measured) -> Iterator[Stand]:
    stand = Stand(request.param, tracer_provider, measured)
    yield stand
    closing = threading.Thread(target=stand.factory.close, daemon=True)
    closing.start()
    closing.join(PATIENCE_S)
    assert not closing.is_alive(), "the factory does not close"
