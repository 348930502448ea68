"""A node's tokens as those of a chat model: ``stream_mode="messages"``, and chat model events of event streams.

Only handlers that stream receive them: LangGraph's of messages mode, LangChain's of event streams and logs. All other
callbacks, such as tracers and counters of usage, do not receive them, so that the call is counted once.
"""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages import ChatMessage as OtherMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult

from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager

    from nodespan.types import ChatMessage

Receivers: TypeAlias = "list[Callable[..., Awaitable[None]]]"

_KINDS: Final[dict[str, type[BaseMessage]]] = {
    "user": HumanMessage,
    "assistant": AIMessage,
    "system": SystemMessage,
}
_SENDING: Final = Guard("send a node's tokens as messages")


def _marker(name: str) -> tuple[type, ...]:
    """A marker class of handlers, for ``isinstance``; none in a LangChain without it."""
    try:
        module = importlib.import_module("langchain_core.tracers._streaming")
    except ImportError:
        return ()
    found = getattr(module, name, None)
    return () if found is None else (found,)


_STREAMING: Final = _marker("_StreamingCallbackHandler")
_STREAMING_V3: Final = _marker("_V2StreamingCallbackHandler")
"""Handlers that receive the parts of a message (event streams of version v3) instead of chunks."""


class MessageEvents:
    """Sends one generation to the handlers that stream. What is sent is the same in sync and in async nodes.

    Attributes:
        run_id: Id of the chat model's run in events.
        message_id: Id of the chunks and of the final message.
    """

    __slots__ = ("_chunks", "_direct", "_messages", "_name", "_parts", "message_id", "run_id")

    def __init__(self, name: str, messages: Sequence[ChatMessage]) -> None:
        self._name = name
        self._messages = messages
        # The run as LangChain manages it: for handlers of chunks, and for those of parts.
        self._chunks: Any = None
        self._parts: Any = None
        self._direct: Receivers = []
        self.run_id = uuid4()
        self.message_id = f"lc_run--{self.run_id}"

    def start(self, manager: CallbackManager) -> None:
        """Announces the run to the manager's readers, from a sync node."""
        with _SENDING:
            [run] = _for_readers(manager).on_chat_model_start({}, [self._input()], run_id=self.run_id, name=self._name)
            self._chunks, self._parts = _chunks_and_parts(run)
            for part in self._first_parts():
                self._send_part(part)

    async def astart(self, manager: AsyncCallbackManager) -> None:
        """Announces the run to the manager's readers, from an async node."""
        with _SENDING:
            [run] = await _for_readers(manager).on_chat_model_start(
                {}, [self._input()], run_id=self.run_id, name=self._name
            )
            self._chunks, self._parts = _chunks_and_parts(run)
            if self._chunks is not None:
                self._direct = direct(self._chunks.handlers, "on_llm_new_token")
            for part in self._first_parts():
                await self._asend_part(part)

    def send(self, text: str) -> None:
        """Sends a piece of the answer, from a sync node."""
        with _SENDING:
            if self._chunks is not None:
                self._chunks.on_llm_new_token(text, chunk=self._chunk(text))
            if self._parts is not None:
                self._send_part(self._delta(text))

    async def asend(self, text: str) -> None:
        """Sends a piece of the answer, from an async node."""
        with _SENDING:
            if self._direct:
                run, chunk = self._chunks, self._chunk(text)
                for receive in self._direct:
                    await receive(text, chunk=chunk, run_id=run.run_id, parent_run_id=run.parent_run_id, tags=run.tags)
            elif self._chunks is not None:
                await self._chunks.on_llm_new_token(text, chunk=self._chunk(text))
            if self._parts is not None:
                await self._asend_part(self._delta(text))

    def end(self, message: AIMessage) -> None:
        """Sends the usage and the whole answer, from a sync node."""
        result = _result(message)
        with _SENDING:
            if self._chunks is not None:
                self._chunks.on_llm_new_token("", chunk=_last_chunk(message))
                self._chunks.on_llm_end(result)
            for part in self._last_parts(message):
                self._send_part(part)
            if self._parts is not None:
                self._parts.on_llm_end(result)

    async def aend(self, message: AIMessage) -> None:
        """Sends the usage and the whole answer, from an async node."""
        result = _result(message)
        with _SENDING:
            if self._chunks is not None:
                await self._chunks.on_llm_new_token("", chunk=_last_chunk(message))
                await self._chunks.on_llm_end(result)
            for part in self._last_parts(message):
                await self._asend_part(part)
            if self._parts is not None:
                await self._parts.on_llm_end(result)

    def fail(self, error: BaseException) -> None:
        """Ends the run with an error, from a sync node."""
        with _SENDING:
            for run in (self._chunks, self._parts):
                if run is not None:
                    run.on_llm_error(error)

    async def afail(self, error: BaseException) -> None:
        """Ends the run with an error, from an async node; not in a coroutine that is closed, which cannot await."""
        if isinstance(error, GeneratorExit):
            return
        with _SENDING:
            for run in (self._chunks, self._parts):
                if run is not None:
                    await run.on_llm_error(error)

    def _input(self) -> list[BaseMessage]:
        return [_as_langchain(message) for message in self._messages]

    def _chunk(self, text: str) -> ChatGenerationChunk:
        return ChatGenerationChunk(message=AIMessageChunk(content=text, id=self.message_id))

    def _send_part(self, part: dict[str, Any]) -> None:
        if self._parts is not None:
            self._parts.on_stream_event(part)

    async def _asend_part(self, part: dict[str, Any]) -> None:
        if self._parts is not None:
            await self._parts.on_stream_event(part)

    def _first_parts(self) -> list[dict[str, Any]]:
        return [
            {"event": "message-start", "role": "ai", "id": self.message_id},
            {"event": "content-block-start", "index": 0, "content": {"type": "text", "text": ""}},
        ]

    @staticmethod
    def _delta(text: str) -> dict[str, Any]:
        return {"event": "content-block-delta", "index": 0, "delta": {"type": "text-delta", "text": text}}

    @staticmethod
    def _last_parts(message: AIMessage) -> list[dict[str, Any]]:
        finish: dict[str, Any] = {"event": "message-finish", "metadata": message.response_metadata}
        if message.usage_metadata is not None:
            finish["usage"] = message.usage_metadata
        block = {"type": "text", "text": message.content}
        return [{"event": "content-block-finish", "index": 0, "content": block}, finish]


def _as_langchain(message: ChatMessage) -> BaseMessage:
    if message.tool_call_id is not None:
        return ToolMessage(message.content, tool_call_id=message.tool_call_id)
    kind = _KINDS.get(message.role)
    return OtherMessage(content=message.content, role=message.role) if kind is None else kind(message.content)


def readers(handlers: Sequence[BaseCallbackHandler]) -> list[BaseCallbackHandler]:
    """The handlers that stream."""
    return [handler for handler in handlers if isinstance(handler, _STREAMING)]


def _for_readers(manager: Any) -> Any:
    """A callback manager with the readers only."""
    own = manager.copy()
    own.set_handlers(readers(manager.handlers), inherit=False)
    return own


def _chunks_and_parts(run: Any) -> tuple[Any, Any]:
    """The run for handlers of chunks and for handlers of parts; ``None`` where there are none."""
    parts = [handler for handler in run.handlers if isinstance(handler, _STREAMING_V3)]
    chunks = [handler for handler in run.handlers if handler not in parts]
    return _with_handlers(run, chunks), _with_handlers(run, parts)


def _with_handlers(run: Any, handlers: list[BaseCallbackHandler]) -> Any:
    if not handlers:
        return None
    return type(run)(
        run_id=run.run_id,
        handlers=handlers,
        inheritable_handlers=[],
        parent_run_id=run.parent_run_id,
        tags=run.tags,
        metadata=run.metadata,
    )


def direct(handlers: Sequence[BaseCallbackHandler], event: str) -> Receivers:
    """The handlers' own coroutine functions for an event, if each handler streams and has one; else none.

    LangChain creates a task for each handler and chunk, which costs more than everything else.
    """
    receivers = [getattr(handler, event) for handler in handlers]
    if len(readers(handlers)) == len(handlers) and all(map(inspect.iscoroutinefunction, receivers)):
        return receivers
    return []


def _last_chunk(message: AIMessage) -> ChatGenerationChunk:
    last = AIMessageChunk(
        content="", id=message.id, usage_metadata=message.usage_metadata, response_metadata=message.response_metadata
    )
    return ChatGenerationChunk(message=last)


def _result(message: AIMessage) -> LLMResult:
    return LLMResult(generations=[[ChatGeneration(message=message)]])
