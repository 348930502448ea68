"""PipelineNode: a LangGraph node that calls a model and records the call in the state and on its span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from nodespan.errors import ConfigurationError
from nodespan.instrumentation.langgraph import NodeSpan, section
from nodespan.runner import PipelineFactory, Runner
from nodespan.spans.instruments import get_instruments
from nodespan.spans.log import warn
from nodespan.spans.scope import current_scope, get_tracer
from nodespan.types import (
    GenerationRequest,
    ModelProfileType,
    NodeMetadata,
    PipelineExecutionMetadata,
    PipelinePriority,
    Sampling,
)
from nodespan.workflow._chunks import EMITS, ChunkEvents, Emit
from nodespan.workflow._execution import NodeExecution, start_facts
from nodespan.workflow._prompt import Prompt, build_request

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from nodespan.runner import PipelineStream


class PipelineNode(Runnable[Any, "dict[str, Any]"]):
    """A node for ``graph.add_node(name, PipelineNode(...))``, in sync and async graphs alike.

    Each execution calls the model once. The node returns its answer and one entry of ``node_metadata``; its span
    carries the same facts (``nodespan.*``).

    With streaming, each chunk is emitted as it is generated, if the run is read as a stream: as an ``AIMessageChunk``
    in ``stream_mode="messages"`` and as ``on_chat_model_stream`` in event streams, with the id of the final message;
    and as ``{"content", "index", "node_id", "span_id"}`` in ``stream_mode="custom"`` and as the custom event
    ``pipeline_chunk`` in event streams. The last of these has no content and the generation's ``metadata``.

    Args:
        pipeline_factory: Holds the models; shared by all nodes that use the same ones.
        profile_type: Which of the factory's profiles.
        stream: Emit chunks as they are generated.
        emit: The form of emitted chunks: ``"both"``, ``"messages"`` or ``"custom"``.
        node_name: Display name; LangGraph's name of the node if not given.
        priority: Priority in the model's queue.
        prompt: If not given, the request is the state's messages. A text precedes them as system message; a function of
            the state returns the prompt (a text) or the messages.
        output_key: Field of the state for the answer: an ``AIMessage`` for ``"messages"``, otherwise the text.
        sampling: Takes precedence over the profile's own.
        deadline_s: Time limit of one execution, waiting for the model included.

    Raises:
        ConfigurationError: An argument is invalid.
        UnknownProfileError: The factory has no such profile.
    """

    def __init__(
        self,
        *,
        pipeline_factory: PipelineFactory,
        profile_type: IntEnum = ModelProfileType.Primary,
        stream: bool = True,
        emit: Emit = "both",
        node_name: str | None = None,
        priority: PipelinePriority = PipelinePriority.NORMAL,
        prompt: Prompt | None = None,
        output_key: str = "messages",
        sampling: Sampling | None = None,
        deadline_s: float | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        if not isinstance(pipeline_factory, PipelineFactory):  # pyright: ignore[reportUnnecessaryIsInstance] callers without types
            raise ConfigurationError(
                f"PipelineNode(pipeline_factory=...) got a {type(pipeline_factory).__name__}. "
                "Give it nodespan.PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path='model.gguf')})."
            )
        if not (prompt is None or isinstance(prompt, str) or callable(prompt)):
            raise ConfigurationError(
                f"PipelineNode(prompt=...) got a {type(prompt).__name__}. Give a text or a function of the state."
            )
        if emit not in EMITS:
            raise ConfigurationError(
                f"PipelineNode(emit={emit!r}) is not supported. Give 'both', 'messages' or 'custom'."
            )
        if deadline_s is not None and deadline_s <= 0:
            raise ConfigurationError(
                f"PipelineNode(deadline_s={deadline_s}) is invalid. Give a number of seconds above 0."
            )
        self._profile = pipeline_factory.profile(profile_type)
        self.name = None
        self.nodespan_display_name = node_name
        self._profile_type = profile_type
        self._priority = PipelinePriority(priority)
        self._stream = stream
        self._emit: Emit = emit
        self._prompt: Prompt | None = prompt
        self._output_key = output_key
        self._sampling = sampling or Sampling()
        self._deadline_s = deadline_s
        self._runner = Runner(pipeline_factory, tracer_provider=tracer_provider, meter_provider=meter_provider)
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._has_checked_fields = False

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002 Runnable's own name
        """Executes the node in a sync graph."""
        del kwargs
        with self._execution(input, config) as execution:
            request = self._request(execution, input)
            with self._generate(execution, request) as stream:
                events = self._events(execution, config, stream, request)
                texts: list[str] = []
                try:
                    events.start()
                    for chunk in stream:
                        texts.append(chunk.content)
                        events.send(chunk)
                except BaseException as error:
                    events.fail(error)
                    raise
                answer = _message("".join(texts), stream.metadata, events.message_id)
                events.end(len(texts), stream.metadata, answer)
                return self._update(execution, answer)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002 Runnable's own name
        """Executes the node in an async graph; the model runs off the event loop."""
        del kwargs
        with self._execution(input, config) as execution:
            request = self._request(execution, input)
            async with self._generate(execution, request) as stream:
                events = self._events(execution, config, stream, request)
                texts: list[str] = []
                try:
                    await events.astart()
                    async for chunk in stream:
                        texts.append(chunk.content)
                        await events.asend(chunk)
                except BaseException as error:
                    await events.afail(error)
                    raise
                answer = _message("".join(texts), stream.metadata, events.message_id)
                await events.aend(len(texts), stream.metadata, answer)
                return self._update(execution, answer)

    def create_node_metadata(self, state: Any, pipeline: PipelineExecutionMetadata | None = None) -> NodeMetadata:
        """The metadata of an execution so far: its names, its ids and those of its span.

        Inside a node's body it describes that execution; elsewhere it has a new node id and no span.

        Args:
            state: Its ``user_id`` and ``conversation_id`` are used.
            pipeline: Measurements of a generation, to be included.
        """
        scope = current_scope()
        facts = {**(dict(pipeline) if pipeline is not None else {}), **self._facts()}
        return NodeMetadata(
            **start_facts(
                scope if isinstance(scope, NodeSpan) else None,
                facts,
                state,
                streams=self._stream,
                node_name=self.nodespan_display_name or type(self).__name__,
            )
        )

    def _facts(self) -> dict[str, Any]:
        profile = self._profile
        return {
            "node_type": type(self).__name__,
            "profile_type": int(self._profile_type),
            "priority": int(self._priority),
            "model_name": profile.model_name,
            "model_provider": profile.provider,
        }

    def _execution(self, state: object, config: RunnableConfig | None) -> NodeExecution:
        execution = NodeExecution(
            get_tracer(self._tracer_provider),
            get_instruments(self._meter_provider),
            self._facts(),
            state,
            config or {},
            node_name=self.nodespan_display_name,
            streams=self._stream,
        )
        self._warn_of_missing_fields(state, execution.channels, config or {})
        return execution

    def _request(self, execution: NodeExecution, state: object) -> GenerationRequest:
        return build_request(execution.scope.node_name, state, self._prompt, self._sampling)

    def _generate(self, execution: NodeExecution, request: GenerationRequest) -> PipelineStream:
        stream = self._runner.stream_pipeline(
            request, profile_type=self._profile_type, priority=self._priority, deadline_s=self._deadline_s
        )
        execution.watch(stream)
        return stream

    def _events(
        self,
        execution: NodeExecution,
        config: RunnableConfig | None,
        stream: PipelineStream,
        request: GenerationRequest,
    ) -> ChunkEvents:
        scope, emit = execution.scope, self._emit if execution.streams else None
        events = ChunkEvents(config, scope.node_id, stream.span_id, request, emit, type(self).__name__)
        runs = scope.directory.runs if scope.directory is not None else None
        if runs is not None and events.run_id is not None and stream.span_id is not None:
            runs[events.run_id] = stream.span_id  # event streams read the span of a chat model's events here
        return events

    def _update(self, execution: NodeExecution, answer: AIMessage) -> dict[str, Any]:
        return {
            self._output_key: [answer] if self._output_key == "messages" else answer.content,
            "node_metadata": {execution.scope.node_id: execution.done()},
        }

    def _warn_of_missing_fields(
        self, state: object, channels: frozenset[str] | None, config: Mapping[str, Any]
    ) -> None:
        """Logs once the writes that LangGraph drops silently: those to fields that the graph's state does not have."""
        if self._has_checked_fields:
            return
        known = channels if channels is not None else _fields(state, config)
        needed = {"node_metadata"} if channels is None else {"node_metadata", self._output_key}
        missing = needed - known if known is not None else None
        self._has_checked_fields = True
        if missing:
            warn(
                "workflow.missing_field",
                "The graph's state has no field %s, so LangGraph drops what PipelineNode %r writes there. "
                "Use or subclass nodespan.WorkflowState, or add the field to your own state.",
                " and ".join(repr(name) for name in sorted(missing)),
                self.nodespan_display_name or self._profile.model_name,
            )


def _fields(state: object, config: Mapping[str, Any]) -> frozenset[str] | None:
    """Field names of the graph's state, if the node's input has them: not outside a graph, not under Send."""
    path = section(config, "metadata").get("langgraph_path")
    if not path or path[0] == "__pregel_push":
        return None
    if isinstance(state, dict):  # a TypedDict; LangGraph gives a field with a reducer its first value
        return frozenset(cast("dict[str, object]", state))
    if isinstance(state, BaseModel):
        return frozenset(type(state).model_fields)
    return frozenset(f.name for f in fields(state)) if is_dataclass(state) else None


def _message(text: str, metadata: PipelineExecutionMetadata | None, message_id: str | None) -> AIMessage:
    """The answer with its usage where LangChain expects it, and with the id of the chunks that were sent of it."""
    if metadata is None or metadata.input_tokens is None or metadata.output_tokens is None:
        return AIMessage(text, id=message_id)
    usage = UsageMetadata(
        input_tokens=metadata.input_tokens,
        output_tokens=metadata.output_tokens,
        total_tokens=metadata.input_tokens + metadata.output_tokens,
    )
    facts = {"model_name": metadata.model_name, "finish_reason": metadata.finish_reason}
    return AIMessage(text, id=message_id, usage_metadata=usage, response_metadata=facts)
