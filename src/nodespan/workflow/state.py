"""WorkflowState: messages, user, conversation, and the metadata of node executions."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Self, cast

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage
from langgraph.graph.message import add_messages
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from nodespan.errors import ConfigurationError

NODE_METADATA_MAX: Final = 64
"""Entries kept in the state. Each is about 600 bytes in every checkpoint, so 64 are some 40 KB."""

NodeMetadataMap = dict[str, dict[str, Any]]
Merge = Callable[[NodeMetadataMap | None, NodeMetadataMap | None], NodeMetadataMap]


def keep_newest(limit: int) -> Merge:
    """A reducer that merges both sides and keeps the newest entries, by ``execution_time`` and then by node id.

    Associative, so that parallel branches can be merged in any grouping. Of two entries with one node id the later one
    is kept, or the right one if their times are equal. A side may be ``None``.
    """
    if limit < 1:
        raise ConfigurationError(f"node_metadata_max={limit} is invalid. Give 1 or more.")

    # LangGraph rejects two reducers for one field, but treats all lambdas as equal: so a node may be annotated with
    # WorkflowState in a graph of a subclass that has another bound. The graph's own bound applies.
    return lambda left, right: _merge(left, right, limit)


def _merge(left: NodeMetadataMap | None, right: NodeMetadataMap | None, limit: int) -> NodeMetadataMap:
    if not right:
        return left or {}
    united = dict(left) if left else {}
    for node_id, entry in right.items():
        known = united.get(node_id)
        if known is None or _time(known) <= _time(entry):
            united[node_id] = entry
    if len(united) <= limit:
        return united
    newest = sorted(united, key=lambda node_id: (_time(united[node_id]), node_id))[-limit:]
    return {node_id: united[node_id] for node_id in newest}


def _time(entry: Mapping[str, Any]) -> str:
    return str(entry.get("execution_time", ""))


def last_wins(left: object, right: object) -> object:
    """A reducer for a plain field: without one, parallel branches that return the whole state would fail."""
    del left
    return right


merge_node_metadata: Final = keep_newest(NODE_METADATA_MAX)


class WorkflowState(BaseModel):
    """The state of a workflow; subclass it freely.

    A subclass keeps more or fewer entries with a class argument: ``class Mine(WorkflowState, node_metadata_max=256)``.

    Attributes:
        messages: The conversation, with LangGraph's ``add_messages`` reducer.
        user_id: The user of the run.
        conversation_id: The conversation of the run.
        node_metadata: Entries of ``NodeMetadata`` as plain JSON types, keyed by node id. Not validated: that would cost
            331 µs per node at 256 entries against 0.7 µs (langgraph 1.2.22, pydantic 2.14).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    messages: Annotated[list[AnyMessage], add_messages] = Field(default_factory=list[AnyMessage])
    user_id: Annotated[str | None, last_wins] = None
    conversation_id: Annotated[str | int | None, last_wins] = None
    node_metadata: Annotated[SkipValidation[NodeMetadataMap], merge_node_metadata] = Field(
        default_factory=dict[str, dict[str, Any]]
    )

    def __init_subclass__(cls, *, node_metadata_max: int | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if node_metadata_max is not None:
            bounded = Annotated[SkipValidation[NodeMetadataMap], keep_newest(node_metadata_max)]
            cls.__annotations__ = {**inspect.get_annotations(cls), "node_metadata": bounded}
            cls.node_metadata = Field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def from_prompt(
        cls, prompt: str, *, user_id: str | None = None, conversation_id: str | int | None = None, **fields: Any
    ) -> Self:
        """A state with one user message."""
        return cls(messages=[HumanMessage(prompt)], user_id=user_id, conversation_id=conversation_id, **fields)


OUR_FIELDS: Final = ("node_metadata",)


def node_cache_key(state: Any) -> bytes:
    """A key for ``CachePolicy(key_func=node_cache_key)``, equal for equal questions.

    LangGraph's own key includes random ids (of messages and of node executions), so that it never matches. This one
    leaves out ``node_metadata`` and the ids of messages; all other content is included, with its types and its nesting;
    the order of a mapping is not. A cached result keeps the ids of its first trace.
    """
    fields = _fields_of(state)
    if fields is not None and not isinstance(state, BaseMessage):
        state = {name: value for name, value in fields.items() if name not in OUR_FIELDS}
    digest = hashlib.sha256()
    _feed(digest.update, state)
    return digest.digest()


def _fields_of(value: object) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value)
    if isinstance(value, BaseModel):
        extra: Mapping[Any, Any] = value.__pydantic_extra__ or {}
        return {**value.__dict__, **extra}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    """Hashes a value so that different values give different bytes: each part has its type and its length."""
    fields = _fields_of(value)
    if fields is not None:
        name = "mapping" if isinstance(value, Mapping) else type(value).__qualname__
        skipped = "id" if isinstance(value, BaseMessage) else None
        parts = sorted((_digest(key), _digest(item)) for key, item in fields.items() if key != skipped)
        update(f"{name} {len(parts)}:".encode())
        for key, item in parts:
            update(key + item)
    elif isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        update(f"{items.__class__.__name__} {len(items)}:".encode())
        for item in items:
            _feed(update, item)
    elif isinstance(value, set | frozenset):
        several = cast("set[Any]", value)
        members = sorted(_digest(item) for item in several)
        update(f"{several.__class__.__name__} {len(members)}:".encode() + b"".join(members))
    else:
        data = pickle.dumps(value, protocol=5)
        update(f"{type(value).__qualname__} {len(data)}:".encode() + data)


def _digest(value: Any) -> bytes:
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.digest()
