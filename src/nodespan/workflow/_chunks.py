"""A node's chunks on their way to the event stream and to ``stream_mode="custom"``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)
from langgraph.config import get_stream_writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig

    from nodespan.types import Chunk, PipelineExecutionMetadata

PIPELINE_CHUNK: Final = "pipeline_chunk"
"""Name of the custom event that carries a chunk."""


class ChunkEvents:
    """Sends the chunks of one execution as custom events and to LangGraph's stream writer.

    The event of a chunk is ``{"content", "index", "node_id", "span_id"}``, with the span id of the generation; the
    last one has no content and the generation's ``metadata``. Where nobody listens, sending costs next to nothing.
    """

    __slots__ = ("_async", "_config", "_ids", "_sync", "_writer")

    def __init__(self, config: RunnableConfig | None, node_id: str, span_id: str | None) -> None:
        self._config = ensure_config(config)
        self._ids = {"node_id": node_id, "span_id": span_id}
        self._writer = _stream_writer()
        self._sync = get_callback_manager_for_config(self._config)
        self._async = get_async_callback_manager_for_config(self._config)

    def send(self, chunk: Chunk) -> None:
        """Sends a chunk from a sync node."""
        self._dispatch({"content": chunk.content, "index": chunk.index, **self._ids})

    async def asend(self, chunk: Chunk) -> None:
        """Sends a chunk from an async node."""
        await self._adispatch({"content": chunk.content, "index": chunk.index, **self._ids})

    def end(self, index: int, metadata: PipelineExecutionMetadata | None) -> None:
        """Sends what the generation took, from a sync node."""
        self._dispatch(self._last(index, metadata))

    async def aend(self, index: int, metadata: PipelineExecutionMetadata | None) -> None:
        """Sends what the generation took, from an async node."""
        await self._adispatch(self._last(index, metadata))

    def _last(self, index: int, metadata: PipelineExecutionMetadata | None) -> dict[str, Any]:
        facts = metadata.model_dump(exclude_none=True) if metadata is not None else {}
        return {"content": "", "index": index, **self._ids, "metadata": facts}

    def _dispatch(self, data: dict[str, Any]) -> None:
        self._writer(data)
        if self._sync.handlers and self._sync.parent_run_id is not None:
            self._sync.on_custom_event(PIPELINE_CHUNK, data, run_id=self._sync.parent_run_id)

    async def _adispatch(self, data: dict[str, Any]) -> None:
        self._writer(data)
        if self._async.handlers and self._async.parent_run_id is not None:
            await self._async.on_custom_event(PIPELINE_CHUNK, data, run_id=self._async.parent_run_id)


def _stream_writer() -> Callable[[Any], None]:
    try:
        return get_stream_writer()
    except (RuntimeError, KeyError):  # the node is run by itself, outside of a graph
        return lambda _: None
