"""Nodes for the tests of workflows."""

from __future__ import annotations

from typing import Any

import pytest

from nodespan.workflow import PipelineNode
from workflow_graphs import echo_factory


@pytest.fixture
def node(tracer_provider):
    """Makes a PipelineNode that repeats its prompt, or one of the given factory."""

    def make(**options: Any) -> PipelineNode:
        factory = options.pop("factory", None) or echo_factory()
        return PipelineNode(pipeline_factory=factory, tracer_provider=tracer_provider, **options)

    return make
