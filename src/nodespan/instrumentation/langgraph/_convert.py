"""LangGraph's objects as span attributes and outcomes: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast
from uuid import UUID

from nodespan import semconv
from nodespan.spans.attributes import PlainAttributes, fact, to_attributes

if TYPE_CHECKING:
    from nodespan.instrumentation.langgraph._identity import RunFacts

DISPLAY_NAME = "nodespan_display_name"
"""Attribute of a node's runnable (a PipelineNode) with its display name."""

_CHECKPOINTER: Final = "__pregel_checkpointer"


class Task(Protocol):
    """What nodespan reads of LangGraph's ``PregelExecutableTask``."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def proc(self) -> object: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def triggers(self) -> Sequence[str]: ...
    @property
    def path(self) -> tuple[object, ...]: ...
    @property
    def writes(self) -> Sequence[tuple[str, object]]: ...


class Graph(Protocol):
    """What nodespan reads of LangGraph's ``Pregel``."""

    @property
    def channels(self) -> Mapping[str, object]: ...
    @property
    def nodes(self) -> Mapping[str, object]: ...
    @property
    def config(self) -> Mapping[str, Any] | None: ...
    def get_name(self) -> str: ...


_SCALARS: Final = (str, int, float, UUID)


def display_name(task: Task) -> str:
    """The display name of a node's runnable, else LangGraph's name of the node."""
    steps: Sequence[object] = fact(task.proc, "steps") or (task.proc,)
    return fact(steps[0], DISPLAY_NAME) or task.name


class NodeTemplate(NamedTuple):
    """Data that all executions of a node share.

    Attributes:
        shown_name: The display name.
        span_name: Of its spans.
        attributes: Of its spans.
    """

    shown_name: str
    span_name: str
    attributes: PlainAttributes


def node_template(task: Task, workflow_name: str | None) -> NodeTemplate:
    """Reads what the other executions of the task's node share, if their triggers and path are the same."""
    shown_name = display_name(task)
    attributes = {
        semconv.OPERATION_NAME: semconv.INVOKE_NODE,
        semconv.NODE: task.name,
        semconv.WORKFLOW_NAME: workflow_name,
        semconv.LANGGRAPH_NODE: task.name,
        semconv.NODE_NAME: shown_name,
        semconv.LANGGRAPH_TRIGGERS: list(task.triggers),
        semconv.LANGGRAPH_PATH: "/".join(map(str, task.path)),
    }
    return NodeTemplate(shown_name, f"{semconv.INVOKE_NODE} {task.name}", to_attributes(attributes))


def node_attributes(task: Task, template: NodeTemplate) -> PlainAttributes:
    """Attributes of a node's span at its start, which samplers receive."""
    metadata: Mapping[str, Any] = task.config.get("metadata") or {}
    configurable: Mapping[str, Any] = task.config.get("configurable") or {}
    own: dict[str, object] = {
        semconv.LANGGRAPH_STEP: metadata.get("langgraph_step"),
        semconv.LANGGRAPH_TASK_ID: task.id,
        semconv.LANGGRAPH_CHECKPOINT_NS: configurable.get("checkpoint_ns"),
    }
    if configurable.get(_CHECKPOINTER):
        own[semconv.LANGGRAPH_CHECKPOINT_ID] = _checkpoint_id(configurable)
    return to_attributes(own, template.attributes)


def callback_attributes(metadata: Mapping[str, Any], workflow_name: str) -> dict[str, Any]:
    """The same of a node that a callback reports, from the metadata of the callback."""
    return {
        semconv.OPERATION_NAME: semconv.INVOKE_NODE,
        semconv.NODE: metadata["langgraph_node"],
        semconv.WORKFLOW_NAME: workflow_name,
        semconv.LANGGRAPH_NODE: metadata["langgraph_node"],
        semconv.NODE_NAME: metadata["langgraph_node"],
        semconv.LANGGRAPH_STEP: metadata.get("langgraph_step"),
        semconv.LANGGRAPH_CHECKPOINT_NS: metadata.get("langgraph_checkpoint_ns"),
        semconv.LANGGRAPH_TRIGGERS: list(metadata.get("langgraph_triggers") or ()),
        semconv.LANGGRAPH_PATH: "/".join(map(str, metadata.get("langgraph_path") or ())),
    }


def _checkpoint_id(configurable: Mapping[str, Any]) -> str | None:
    """Checkpoint that the task's step began from."""
    steps: dict[str, str] | None = configurable.get("checkpoint_map")
    return next(reversed(steps.values())) if steps else None


def workflow_attributes(facts: RunFacts) -> dict[str, Any]:
    """Attributes of a run's span at its start, which samplers receive. The scope sets the identity."""
    return {
        semconv.OPERATION_NAME: semconv.INVOKE_WORKFLOW,
        semconv.WORKFLOW_NAME: facts.name,
        semconv.LANGGRAPH_THREAD_ID: facts.thread_id,
        semconv.LANGGRAPH_CHECKPOINT_ID: facts.checkpoint_id,
        semconv.LANGGRAPH_CHECKPOINT_NS: facts.checkpoint_ns,
    }


def field_of(state: object, name: str) -> object:
    """A field of a state that may be a dict, a pydantic model, a dataclass, or none of them (under ``Send``)."""
    if isinstance(state, Mapping):
        return cast("Mapping[str, object]", state).get(name)
    return cast("object", getattr(state, name, None))


def id_of(state: object, name: str, default: object = None) -> object:
    """A scalar field of a state, a context or a section of a config.

    A property that raises, or a value that is not a scalar (such as a column of a table), counts as absent: optional
    data must not prevent the span.
    """
    try:
        value = field_of(state, name)
    except Exception:  # noqa: BLE001 the program's own property
        return default
    return value if isinstance(value, _SCALARS) else default


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping inside of LangGraph's config (``metadata``, ``configurable``), empty where it is not given."""
    found: Mapping[str, Any] | None = config.get(name)
    return found or {}
