"""Real servers, one of a kind for all tests of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from llama_server import LlamaServer
from nodespan.runner import PipelineFactory, PipelineStream, Runner
from nodespan.testing import FakeServer
from nodespan.types import ModelProfile, ModelProfileType

Ask = Callable[..., PipelineStream]


@pytest.fixture(scope="module")
def llama_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """A llama-server with two slots."""
    with LlamaServer(smollm2, tmp_path_factory.mktemp("llama-server")) as server:
        yield server


@pytest.fixture
def run(tracer_provider: TracerProvider) -> Iterator[Callable[..., Ask]]:
    """Makes a runner for servers; the factories are closed at the end."""
    with ExitStack() as stack:

        def run(*servers: FakeServer, **profile: Any) -> Ask:
            urls = tuple(server.url for server in servers)
            made = ModelProfile(**{"base_url": urls, "name": "m", **profile})
            factory = stack.enter_context(PipelineFactory({ModelProfileType.Primary: made}))
            return Runner(factory, tracer_provider=tracer_provider).stream_pipeline

        yield run
