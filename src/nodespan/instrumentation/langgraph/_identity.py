"""Name and identity of a run: from the effective config, the context of the call, and the state of the run.

Before the run's first step only the config is available, and samplers receive its data. The state, which may be from a
checkpoint or a ``Command``, is available when LangGraph has loaded it; its ids replace those of the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.constants import START
from langgraph.types import Command

from nodespan.instrumentation.langgraph._convert import id_of, section
from nodespan.spans.attributes import fact
from nodespan.spans.identity import NO_IDENTITY, Identity

if TYPE_CHECKING:
    from nodespan.spans.scope import SpanScope

_ROOT: Final = "__root__"
"""Channel of a state that is one value instead of fields."""

_PREVIOUS: Final = "__previous__"
"""Channel of what the last call of a functional workflow saved."""

_STATES: Final = (START, _ROOT, _PREVIOUS)
"""Channels that hold a whole state."""

_COORDINATES: Final = frozenset({"thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map"})
"""Keys of ``configurable`` that address a thread: LangGraph then ignores the inherited ``configurable``."""

_DEFAULT_NAME: Final = "LangGraph"
"""Default name of a graph."""

_BOUND_MAX: Final = 8
"""Nested bindings (``with_retry``, ``with_fallbacks``) that are searched for configs."""


class RunFacts(NamedTuple):
    """Data from the effective config of a run."""

    name: str
    thread_id: str | None
    checkpoint_id: str | None
    checkpoint_ns: str | None
    identity: Identity


class _EffectiveConfig:
    """The config of the call, merged over the graph's own (``with_config``) and over the inherited one."""

    def __init__(self, graph: object, config: Mapping[str, Any]) -> None:
        self._graph = graph
        self._explicit = (config, *own_configs(graph))
        self._inherited: Mapping[str, Any] = var_child_runnable_config.get() or {}
        self._configurable = [found for one in self._explicit if (found := one.get("configurable"))]
        resets = any(not _COORDINATES.isdisjoint(one) for one in self._configurable)
        inherited = self._inherited.get("configurable")
        self._sections: list[Mapping[str, Any]] = [
            *self._configurable,
            *([inherited] if inherited and not resets else []),
            *[found for one in (*self._explicit, self._inherited) if (found := one.get("metadata"))],
        ]

    def run_name(self) -> str | None:
        """Merges like LangChain, without inheritance."""
        return next((name for one in self._explicit if (name := one.get("run_name"))), None)

    def explicit(self, name: str) -> Any:
        """A value of ``configurable`` that the call or the graph gives."""
        return next((value for one in self._configurable if (value := one.get(name))), None)

    def id(self, name: str) -> object:
        """An id of ``configurable`` or ``metadata``."""
        return _first_id(self._sections, name)

    def inherited_thread_id(self) -> object:
        """Thread of the run around."""
        return id_of(section(self._inherited, "configurable"), "thread_id")

    def agent_name(self) -> str | None:
        """The name given to ``create_agent``; not inherited, because a graph inside an agent is not that agent."""
        for one in self._explicit:
            if isinstance(name := section(one, "metadata").get("lc_agent_name"), str):
                return name
        return _react_agent_name(self._graph)


def _first_id(sources: Iterable[object], name: str) -> object:
    for source in sources:
        if (value := id_of(source, name)) is not None:
            return value
    return None


def _react_agent_name(graph: object) -> str | None:
    """The name given to LangGraph's ``create_react_agent``, whose graphs are known by the function of their node."""
    nodes: object = fact(graph, "nodes")
    node = cast("dict[str, object]", nodes).get("agent") if isinstance(nodes, dict) else None
    if node is None:
        return None
    asks: object = fact(fact(node, "bound"), "func")
    if fact(asks, "__module__") != "langgraph.prebuilt.chat_agent_executor":
        return None
    name: object = fact(graph, "name")
    return name if isinstance(name, str) and name != _DEFAULT_NAME else None


def own_configs(graph: object) -> Iterator[Mapping[str, Any]]:
    """The configs that a runnable was given by ``with_config``, the outermost first."""
    for _ in range(_BOUND_MAX):
        config = fact(graph, "config")
        if isinstance(config, Mapping):
            yield cast("Mapping[str, Any]", config)
        graph = fact(graph, "bound")
        if graph is None:
            return


def run_facts(
    graph: Any, config: Mapping[str, Any], run_input: object, context: object, outer: SpanScope | None
) -> RunFacts:
    """Name, thread and identity of a run before its first step.

    Args:
        graph: A compiled graph, or a runnable that contains one.
        config: Of the call.
        run_input: Of the call; its ids take precedence over the context's, and these over the config's.
        context: Of the call (``context=``).
        outer: The scope around; a run with its own thread does not inherit its conversation.
    """
    if isinstance(run_input, Command):
        run_input = cast("object", run_input.update)
    effective = _EffectiveConfig(graph, config)
    around = outer.identity if outer is not None else NO_IDENTITY
    thread_id = effective.id("thread_id")
    inherits = outer is None or thread_id is None or thread_id == effective.inherited_thread_id()

    given = [source for source in (run_input, context) if source is not None]
    user_id, conversation_id = (
        value if (value := _first_id(given, name)) is not None else effective.id(name)
        for name in ("user_id", "conversation_id")
    )
    if conversation_id is None:
        conversation_id = around.conversation_id if inherits and around.conversation_id is not None else thread_id
    identity = Identity(
        around.user_id if user_id is None else str(user_id),
        _conversation(conversation_id),
        effective.agent_name() or around.agent_name,
    )
    return RunFacts(
        effective.run_name() or graph.get_name(),
        None if thread_id is None else str(thread_id),
        effective.explicit("checkpoint_id"),
        effective.explicit("checkpoint_ns"),
        identity,
    )


def _conversation(value: object) -> str | int | None:
    return value if value is None or isinstance(value, int) else str(value)


def identity_in(channels: Mapping[str, Any], known: Identity) -> Identity:
    """The identity with the ids of the state that the run has loaded, its input and its command applied.

    The input of a graph is in a separate channel until the first node starts. The state of a functional workflow is the
    value that its last call saved.
    """
    states = [state for source in _STATES if (state := _value_of(channels.get(source))) is not None]
    user_id, conversation_id = _id_in(channels, states, "user_id"), _id_in(channels, states, "conversation_id")
    user_id = known.user_id if user_id is None else str(user_id)
    conversation_id = known.conversation_id if conversation_id is None else _conversation(conversation_id)
    if user_id == known.user_id and conversation_id == known.conversation_id:
        return known
    return Identity(user_id, conversation_id, known.agent_name)


def _id_in(channels: Mapping[str, Any], states: list[object], name: str) -> object:
    found = _first_id(states, name)
    return id_of({name: _value_of(channels.get(name))}, name) if found is None and name in channels else found


def _value_of(channel: Any) -> object:
    try:
        return None if channel is None else channel.get()
    except Exception:  # noqa: BLE001 an empty channel, or a reducer of the program's own
        return None
