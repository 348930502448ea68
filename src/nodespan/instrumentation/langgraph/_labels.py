"""Tags, metadata and thread of a run's config, on its span and those of its nodes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.runnables.config import var_child_runnable_config

from nodespan import semconv
from nodespan.instrumentation.langgraph._convert import section
from nodespan.instrumentation.langgraph._identity import own_configs
from nodespan.instrumentation.langgraph._spans import run_around
from nodespan.spans.attributes import to_attributes
from nodespan.spans.guard import Guard
from nodespan.spans.redaction import redacted

if TYPE_CHECKING:
    from nodespan.instrumentation.langgraph._convert import Graph
    from nodespan.instrumentation.langgraph._spans import WorkflowSpan

METADATA_KEYS: Final = "NODESPAN_METADATA_KEYS"
DEFAULT_KEYS: Final = frozenset({"user_id", "session_id", "thread_id", "conversation_id"})
MAX_LABELS: Final = 32
"""Tags, and keys of metadata, of one run."""
MAX_BYTES: Final = 256

_SECRET_PARTS: Final = ("key", "token", "secret", "password", "auth")
"""A key that contains one of these parts is never recorded."""
_OTHERS_KEYS: Final = ("langgraph_", "checkpoint_", "lc_", "ls_", "__", "nodespan.")
"""Prefixes of the keys that LangGraph, LangChain, LangSmith and nodespan add to metadata."""
_OTHERS_TAGS: Final = ("graph:step:", "seq:step:", "map:key:", "langsmith:")
_SECTIONS: Final = frozenset({"tags", "metadata", "configurable"})
_SCALARS: Final = (str, bool, int, float)

_LABELLING: Final = Guard("read tags and metadata of a run")


def label(run: WorkflowSpan, graph: Graph, config: Mapping[str, Any]) -> None:
    """Sets the labels of a run on its span and keeps them for its nodes; labels of the enclosing run are included."""
    with _LABELLING:
        outer = run_around(run.parent)
        around: Mapping[str, Any] = outer.labels if outer is not None else {}
        inherited: Mapping[str, Any] = var_child_runnable_config.get() or {}
        configs = [inherited, *reversed(list(own_configs(graph))), config]
        if not around and all(map(_SECTIONS.isdisjoint, configs)):
            return
        found = _found(configs)
        if tags := [*(around.get(semconv.TAGS, ())), *found.pop(semconv.TAGS, ())]:
            found[semconv.TAGS] = list(dict.fromkeys(tags))[:MAX_LABELS]
        run.labels = to_attributes({**around, **found})
        if run.labels and run.span.is_recording():
            run.span.set_attributes(run.labels)


def _found(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    configurable = {key: value for one in configs for key, value in section(one, "configurable").items()}
    metadata = {key: value for one in configs for key, value in section(one, "metadata").items()}
    given = {key: value for key, value in metadata.items() if not _is_copy(value, configurable.get(key))}
    found = _metadata(given)
    if tags := _tags(tag for one in configs for tag in cast("Iterable[object]", one.get("tags") or ())):
        found[semconv.TAGS] = tags
    if (thread_id := configurable.get("thread_id")) is not None:
        found[semconv.LANGGRAPH_THREAD_ID] = str(thread_id)
    return found


def _is_copy(value: object, configured: object) -> bool:
    """Whether LangGraph has copied a value of metadata from ``configurable``; it copies plain ones."""
    return isinstance(value, _SCALARS) and type(value) is type(configured) and value == configured


def _tags(tags: Iterable[object]) -> list[str]:
    texts = (tag for tag in tags if isinstance(tag, str) and not tag.startswith(_OTHERS_TAGS))
    return [redacted(text) for text in dict.fromkeys(texts) if _is_short(text)][:MAX_LABELS]


def _metadata(given: Mapping[str, object]) -> dict[str, Any]:
    wanted = _wanted(os.environ.get(METADATA_KEYS, ""))
    found: dict[str, Any] = {}
    for key, value in given.items():
        if len(found) < MAX_LABELS and _may_leave(key, wanted) and isinstance(value, _SCALARS) and _is_short(value):
            found[semconv.METADATA_PREFIX + key] = redacted(value) if isinstance(value, str) else value
    return found


def _may_leave(key: object, wanted: frozenset[str]) -> bool:
    if not isinstance(key, str) or len(key) > MAX_BYTES or any(part in key.lower() for part in _SECRET_PARTS):
        return False
    return key in wanted or ("*" in wanted and not key.startswith(_OTHERS_KEYS))


def _is_short(value: object) -> bool:
    return not isinstance(value, str) or (
        len(value) <= MAX_BYTES and len(value.encode("utf-8", "replace")) <= MAX_BYTES
    )


@lru_cache(maxsize=8)
def _wanted(given: str) -> frozenset[str]:
    """The allowed keys: the default ones and those of the variable, separated by commas; ``*`` is every key."""
    return DEFAULT_KEYS | {key.strip() for key in given.split(",") if key.strip()}
