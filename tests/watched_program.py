"""A real LangGraph program for the tests of the page: a loop, parallel branches, a subgraph, model calls, an error.

``python -m watched_program SECONDS``: one run of about this duration; ``python -m watched_program few``: several
short runs of each kind. Both write to the store that ``NODESPAN_STORE`` names.
"""

from __future__ import annotations

import operator
import sys
import time
from typing import Annotated, Any, TypedDict

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

import nodespan

ANSWERS = ("Look at the map first.", "Ask the harbour master.", "The river flows north.")
ROUNDS = 14


class State(TypedDict, total=False):
    question: str
    findings: Annotated[list[str], operator.add]
    rounds: int
    answer: str


class Talker(GenericFakeChatModel):
    """A slow chat model."""

    pace_s: float = 0.05

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        time.sleep(self.pace_s)  # long enough to be seen on the page
        return super()._generate(messages, stop, run_manager, **kwargs)


@tool
def look_up(place: str) -> str:
    """Look a place up in the gazetteer."""
    time.sleep(0.02)  # long enough to be seen on the page
    return f"{place} lies by the river."


def make_graph(rounds: int, pace_s: float, *, fails: bool = False, interrupts: bool = False) -> Any:
    """Plan and act in a loop of so many rounds, then search in parallel, check in a subgraph, and write."""
    usage = {"input_tokens": 412, "output_tokens": 57, "total_tokens": 469}
    model = Talker(messages=(AIMessage(ANSWERS[i % 3], usage_metadata=usage) for i in range(10_000)), pace_s=pace_s)

    def plan(state: State) -> State:
        return {
            "findings": [str(model.invoke([HumanMessage(state["question"])]).content)],
            "rounds": state.get("rounds", 0) + 1,
        }

    def act(state: State) -> State:
        return {"findings": [look_up.invoke({"place": f"place {state['rounds']}"})]}

    def is_done(state: State) -> str | list[Send]:
        if state["rounds"] < rounds:
            return "plan"
        return [Send("search", {"question": f"{state['question']} {i}", "findings": []}) for i in range(3)]

    def search(state: State) -> State:
        time.sleep(pace_s)  # long enough to be seen on the page
        return {"findings": [f"found: {state['question']}"]}

    def write(state: State) -> Command[str]:
        if fails:
            raise ValueError("the harbour is closed")
        if interrupts:
            interrupt({"question": "Shall it be sent?"})
        model.invoke([HumanMessage("\n".join(state["findings"][-3:]))])
        return Command(update={"answer": "north"}, goto=END)

    graph = StateGraph(State)
    for name, node in {"plan": plan, "act": act, "search": search, "write": write}.items():
        graph.add_node(name, node)
    graph.add_node("check", make_subgraph(pace_s / 2))
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "act")
    graph.add_conditional_edges("act", is_done, ["plan", "search"])
    graph.add_edge("search", "check")
    graph.add_edge("check", "write")
    return graph.compile(checkpointer=InMemorySaver(), name="guide")


def make_subgraph(pace_s: float) -> Any:
    """Two nodes, one after the other."""

    def read(state: State) -> State:
        time.sleep(pace_s)  # long enough to be seen on the page
        return {"rounds": state["rounds"]}

    graph = StateGraph(State)
    graph.add_node("spell", read)
    graph.add_node("style", read)
    graph.add_edge(START, "spell")
    graph.add_edge("spell", "style")
    return graph.compile(name="check")


def run(
    question: str, thread: str, rounds: int, pace_s: float, *, fails: bool = False, interrupts: bool = False
) -> None:
    """One run, and a second one that resumes it after an interrupt."""
    graph = make_graph(rounds, pace_s, fails=fails, interrupts=interrupts)
    config = {
        "configurable": {"thread_id": thread},
        "tags": ["harbour"],
        "metadata": {"user_id": "u1"},
        "recursion_limit": 10_000,
    }
    try:
        graph.invoke({"question": question}, config)
        if interrupts:
            graph.invoke(Command(resume="yes"), config)
    except ValueError:
        if not fails:
            raise


def main() -> None:
    with nodespan.configure(service_name="guide"):
        nodespan.instrument()
        if sys.argv[1] == "few":
            for i in range(4):
                run("Where does the river flow?", f"thread-{i % 2}", ROUNDS if i == 3 else 2, 0.02)
            run("Is the harbour open?", "thread-2", 2, 0.03, fails=True)
            run("Is it safe to sail?", "thread-2", 2, 0.03, interrupts=True)
        else:
            seconds = float(sys.argv[1])
            run("Where does the river flow?", "thread-long", ROUNDS, seconds / (ROUNDS + 3))  # 3 nodes after the loop


if __name__ == "__main__":
    main()
