"""Emits a node's chunks to event streams, ``stream_mode="custom"`` and ``stream_mode="messages"``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)
from langgraph.config import get_stream_writer

from nodespan.spans.guard import Guard
from nodespan.workflow._messages import MessageEvents, direct, readers

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig

    from nodespan.types import Chunk, GenerationRequest, PipelineExecutionMetadata

_SENDING: Final = Guard("send a node's chunk")

PIPELINE_CHUNK: Final = "pipeline_chunk"
"""Name of the custom event that carries a chunk."""

Emit = Literal["both", "messages", "custom"]
"""Which streams receive the chunks of a node."""

EMITS: Final[tuple[Emit, ...]] = ("both", "messages", "custom")


class ChunkEvents:
    """Sends the chunks of one execution where they are read; anywhere else, sending costs next to nothing.

    As custom events and to LangGraph's stream writer a chunk is ``{"content", "index", "node_id", "span_id"}``, with
    the span id of the generation; the last one has no content and the generation's ``metadata``. As messages the
    chunks are those of a chat model: see ``MessageEvents``. With ``emit=None`` nothing is sent.
    """

    __slots__ = ("_async", "_direct", "_ids", "_messages", "_sync", "_writer")

    def __init__(
        self,
        config: RunnableConfig | None,
        node_id: str,
        span_id: str | None,
        request: GenerationRequest,
        emit: Emit | None,
        name: str,
    ) -> None:
        self._writer: Callable[[Any], None] | None = None
        self._messages: MessageEvents | None = None
        if emit is None:
            return
        config = ensure_config(config)
        self._ids = {"node_id": node_id, "span_id": span_id}
        if emit != "messages":
            self._writer = _stream_writer()
        self._sync = get_callback_manager_for_config(config)
        self._async = get_async_callback_manager_for_config(config)
        self._direct = direct(self._async.handlers, "on_custom_event") if self._async.parent_run_id is not None else []
        if emit != "custom" and readers(self._sync.handlers):
            self._messages = MessageEvents(name, request.messages)

    @property
    def run_id(self) -> str | None:
        """Id of the chat model's run in events; ``None`` if messages are not read."""
        return None if self._messages is None else str(self._messages.run_id)

    @property
    def message_id(self) -> str | None:
        """Id for the final message, which is that of the chunks; ``None`` if messages are not read."""
        return None if self._messages is None else self._messages.message_id

    def start(self) -> None:
        """Announces the generation, from a sync node."""
        if self._messages is not None:
            self._messages.start(self._sync)

    async def astart(self) -> None:
        """Announces the generation, from an async node."""
        if self._messages is not None:
            await self._messages.astart(self._async)

    def send(self, chunk: Chunk) -> None:
        """Sends a chunk from a sync node."""
        if self._messages is not None:
            self._messages.send(chunk.content)
        if self._writer is not None:
            self._dispatch({"content": chunk.content, "index": chunk.index, **self._ids})

    async def asend(self, chunk: Chunk) -> None:
        """Sends a chunk from an async node."""
        if self._messages is not None:
            await self._messages.asend(chunk.content)
        if self._writer is not None:
            await self._adispatch({"content": chunk.content, "index": chunk.index, **self._ids})

    def end(self, index: int, metadata: PipelineExecutionMetadata | None, message: AIMessage) -> None:
        """Sends the answer and the measurements of its generation, from a sync node."""
        if self._messages is not None:
            self._messages.end(message)
        if self._writer is not None:
            self._dispatch(self._last(index, metadata))

    async def aend(self, index: int, metadata: PipelineExecutionMetadata | None, message: AIMessage) -> None:
        """Sends the answer and the measurements of its generation, from an async node."""
        if self._messages is not None:
            await self._messages.aend(message)
        if self._writer is not None:
            await self._adispatch(self._last(index, metadata))

    def fail(self, error: BaseException) -> None:
        """Ends the message of a generation that failed or was cancelled, from a sync node."""
        if self._messages is not None:
            self._messages.fail(error)

    async def afail(self, error: BaseException) -> None:
        """Ends the message of a generation that failed or was cancelled, from an async node."""
        if self._messages is not None:
            await self._messages.afail(error)

    def _last(self, index: int, metadata: PipelineExecutionMetadata | None) -> dict[str, Any]:
        facts = metadata.model_dump(exclude_none=True) if metadata is not None else {}
        return {"content": "", "index": index, **self._ids, "metadata": facts}

    def _dispatch(self, data: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer(data)
        if self._sync.handlers and self._sync.parent_run_id is not None:
            self._sync.on_custom_event(PIPELINE_CHUNK, data, run_id=self._sync.parent_run_id)

    async def _adispatch(self, data: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer(data)
        if self._direct:
            run = self._async
            with _SENDING:
                for receive in self._direct:
                    await receive(PIPELINE_CHUNK, data, run_id=run.parent_run_id, tags=run.tags, metadata=run.metadata)
        elif self._async.handlers and self._async.parent_run_id is not None:
            await self._async.on_custom_event(PIPELINE_CHUNK, data, run_id=self._async.parent_run_id)


def _stream_writer() -> Callable[[Any], None]:
    try:
        return get_stream_writer()
    except (RuntimeError, KeyError):  # the node is called outside of a graph
        return lambda _: None
