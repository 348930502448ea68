"""What a user writes: the state, the nodes, and the service that runs them."""

from __future__ import annotations

from nodespan.workflow.composer import ComposerService
from nodespan.workflow.node import PipelineNode
from nodespan.workflow.state import WorkflowState, keep_newest, node_cache_key

__all__ = ["ComposerService", "PipelineNode", "WorkflowState", "keep_newest", "node_cache_key"]
