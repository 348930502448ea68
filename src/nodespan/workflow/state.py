"""WorkflowState: messages, who the run is for, and the metadata of its node executions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Self, cast

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.graph.message import add_messages
from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from nodespan.errors import ConfigurationError

NODE_METADATA_MAX: Final = 64
"""Entries kept in the state. Each is about 600 bytes in every checkpoint, so 64 are some 40 KB."""

NodeMetadataMap = dict[str, dict[str, Any]]
Merge = Callable[[NodeMetadataMap | None, NodeMetadataMap | None], NodeMetadataMap]


def keep_newest(limit: int) -> Merge:
    """A reducer that unites both sides and keeps the newest entries, by ``execution_time`` and then by node id.

    Associative, so parallel branches may be merged in any grouping. Two entries of one node id: the later one stays,
    at the same time the right one. A side may be ``None``.
    """
    if limit < 1:
        raise ConfigurationError(f"node_metadata_max={limit} keeps nothing. Give a number from 1.")

    # LangGraph refuses two reducers for one field, except that it takes all lambdas for the same: so a node may be
    # annotated with WorkflowState in a graph of a subclass that has another bound. The graph's own bound holds.
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

    A subclass that wants to keep more or fewer entries says so: ``class Mine(WorkflowState, node_metadata_max=256)``.

    Attributes:
        messages: The conversation, with LangGraph's ``add_messages`` reducer.
        user_id: Who the run is for.
        conversation_id: The conversation it belongs to.
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
        """A state that begins a conversation with one message of the user's."""
        return cls(messages=[HumanMessage(prompt)], user_id=user_id, conversation_id=conversation_id, **fields)


OUR_FIELDS: Final = ("node_metadata",)


def node_cache_key(state: Any) -> bytes:
    """A key for ``CachePolicy(key_func=node_cache_key)`` that the same question hits again.

    LangGraph's own key includes random ids (of messages and of node executions), so with it nothing would ever be
    found. This one leaves out ``node_metadata`` and the messages' ids. An entry that is found keeps its first trace.
    """
    import pickle

    fields = cast("Mapping[str, Any]", state) if isinstance(state, Mapping) else getattr(state, "__dict__", None)
    if fields is None:
        return pickle.dumps(state, protocol=5)
    return pickle.dumps(
        sorted((name, _without_ids(value)) for name, value in fields.items() if name not in OUR_FIELDS), protocol=5
    )


def _without_ids(value: Any) -> bytes:
    import pickle

    if isinstance(value, list):
        return b"".join(_without_ids(item) for item in cast("list[Any]", value))
    if hasattr(value, "content") and hasattr(value, "type"):
        return pickle.dumps((value.type, value.content), protocol=5)
    return pickle.dumps(value, protocol=5)
