"""One model that a test plays step by step, and a way to request its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import Stage, raw

Ask = Callable[..., PipelineStream]


@pytest.fixture(params=["generate", "agenerate"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """In both forms of the contract."""
    return Stage(is_async=request.param == "agenerate")


@pytest.fixture
def ask(stage: Stage) -> Iterator[Ask]:
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(name="m")}, create=stage.create) as factory:
        yield lambda prompt, **options: Runner(factory).stream_pipeline(raw(prompt), **options)
