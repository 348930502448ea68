"""One model that a test plays step by step, and a way to ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import Stage, raw

Ask = Callable[..., PipelineStream]


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def ask(stage: Stage) -> Iterator[Ask]:
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(name="m")}, create=stage.create) as factory:
        yield lambda prompt, **options: Runner(factory).stream_pipeline(raw(prompt), **options)
