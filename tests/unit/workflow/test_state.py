"""WorkflowState and its reducer: associative, bounded, plain JSON types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from nodespan.errors import ConfigurationError
from nodespan.workflow import WorkflowState, keep_newest, node_cache_key

entries = st.dictionaries(
    st.integers(0, 30).map(lambda number: f"{number:08x}"),
    st.builds(lambda second: {"execution_time": f"2026-01-01T00:00:{second:02d}"}, st.integers(0, 5)),
    max_size=8,
)


@given(entries, entries, entries, st.integers(1, 6))
def test_merging_is_associative_whatever_the_bound(left, middle, right, limit):
    merge = keep_newest(limit)
    # A side from the state has already passed the reducer.
    left, middle, right = (merge(None, side) for side in (left, middle, right))
    assert merge(merge(left, middle), right) == merge(left, merge(middle, right))


@given(st.lists(entries, max_size=6), st.integers(1, 6))
def test_the_number_of_entries_is_bounded_and_the_newest_are_kept(updates, limit):
    merged = reduce(keep_newest(limit), updates, {})
    united = reduce(keep_newest(10_000), updates, {})
    assert len(merged) == min(limit, len(united))
    newest = sorted(((entry["execution_time"], key) for key, entry in united.items()), reverse=True)[:limit]
    assert {key for _, key in newest} == set(merged)


def test_merging_modifies_neither_side():
    left, right = {"a": {"execution_time": "1"}}, {"b": {"execution_time": "2"}}
    keep_newest(1)(left, right)
    assert list(left) == ["a"]
    assert list(right) == ["b"]


def test_a_bound_of_zero_is_refused():
    with pytest.raises(ConfigurationError, match="Give 1 or more"):
        keep_newest(0)


def test_a_subclass_sets_its_own_bound_and_its_subclasses_keep_it():
    class Small(WorkflowState, node_metadata_max=2):
        extra: int = 0

    class Smaller(Small):
        pass

    def node(_state: WorkflowState) -> dict[str, object]:
        return {"node_metadata": {f"{i:08x}": {"execution_time": str(i)} for i in range(5)}, "extra": 1}

    graph = StateGraph(Smaller)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    result = graph.compile().invoke(Smaller.from_prompt("hello"))
    assert sorted(result["node_metadata"]) == ["00000003", "00000004"]
    assert result["extra"] == 1


def test_from_prompt_starts_a_conversation():
    state = WorkflowState.from_prompt("Hello", user_id="u1", conversation_id=12345)
    assert [(message.type, message.content) for message in state.messages] == [("human", "Hello")]
    assert (state.user_id, state.conversation_id) == ("u1", 12345)


def test_parallel_branches_can_return_the_scalar_fields_of_nodespan():
    def branch(_state: WorkflowState) -> dict[str, object]:
        return {"user_id": "u1", "conversation_id": 7}

    graph = StateGraph(WorkflowState)
    for name in ("left", "right"):
        graph.add_node(name, branch)
        graph.add_edge(START, name)
    assert graph.compile().invoke(WorkflowState())["conversation_id"] == 7


def test_the_cache_key_depends_on_the_question_and_not_on_random_ids():
    def asked(text: str, **metadata: dict[str, str]) -> WorkflowState:
        state = WorkflowState.from_prompt(text, user_id="u1")
        state.messages[0].id = str(id(state))
        state.node_metadata.update(metadata)
        return state

    assert node_cache_key(asked("a", x={"execution_time": "1"})) == node_cache_key(asked("a"))
    assert node_cache_key(asked("a")) != node_cache_key(asked("b"))
    assert node_cache_key({"n": 1}) != node_cache_key({"n": 2})
    assert node_cache_key("text") == node_cache_key("text")


def calls(name: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": {"x": 1}, "id": "1"}])


@dataclass
class One:
    value: Any


@dataclass
class Other:
    value: Any


class Open(BaseModel, extra="allow"):
    value: int = 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"n": One(1)}, {"n": Other(1)}),
        ({"n": One(1)}, {"n": {"value": 1}}),
        ({"n": Open(value=1)}, {"n": {"value": 1}}),
        ({"n": Open(more=1)}, {"n": Open(more=2)}),
        (One({"id": 1}), One({"id": 2})),
        ({"messages": [calls("add")]}, {"messages": [calls("delete")]}),
        ({"messages": [HumanMessage("a", name="x")]}, {"messages": [HumanMessage("a", name="y")]}),
        ({"messages": [HumanMessage("a")]}, {"messages": [AIMessage("a")]}),
        ({"n": [[1], [2]]}, {"n": [[1, 2]]}),
        ({"n": []}, {"n": [[]]}),
        ({"n": 1}, {"n": True}),
        ({"n": 1}, {"n": 1.0}),
        ({"n": (1,)}, {"n": [1]}),
        ({"ab": "c"}, {"a": "bc"}),
        ({"n": ["a", "b"]}, {"n": ["ab"]}),
    ],
)
def test_different_questions_have_different_cache_keys(one, other):
    assert node_cache_key(one) != node_cache_key(other)


def test_the_order_of_a_mapping_and_of_a_set_does_not_change_the_cache_key():
    assert node_cache_key({"a": {"x": 1, "y": 2}, "b": 1}) == node_cache_key({"b": 1, "a": {"y": 2, "x": 1}})
    assert node_cache_key({"s": {f"{n}" for n in range(50)}}) == node_cache_key(
        {"s": {f"{n}" for n in range(49, -1, -1)}}
    )


def test_ids_of_messages_do_not_count_in_any_kind_of_state():
    makers = (lambda more: {"n": more}, lambda more: Open(more=more), One, lambda more: One({"deep": [more]}))
    for make in makers:
        one, other = (make(HumanMessage("a", id=name)) for name in "12")
        assert node_cache_key(one) == node_cache_key(other)


def test_messages_that_differ_only_in_their_ids_have_one_cache_key():
    assert node_cache_key({"messages": [HumanMessage("a", id="1")]}) == node_cache_key(
        {"messages": [HumanMessage("a", id="2")]}
    )
