"""A program with known telemetry: python seeded_run.py model.gguf. It exports to the endpoint in OTEL_*.

It runs five workflows on a real model: one that keeps the model busy while two priorities of another wait for it, one
whose node fails once and is retried, one that fails, one that is interrupted and resumed. At the end it prints
one line of JSON with the executed work, counted from the graphs' states and from this program's steps, not from its
telemetry. Boards, Jaeger and Prometheus must show the same numbers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from opentelemetry import metrics

import nodespan
from nodespan import (
    ComposerService,
    ModelProfile,
    ModelProfileType,
    PipelineFactory,
    PipelineNode,
    PipelinePriority,
    Sampling,
    WorkflowState,
)

SERVICE = "nodespan-seeded"
STANDS_S = 1.0
"""How long the last value of a gauge is kept before the next: the boards' tests read every 0.2 s."""
MODELS = {ModelProfileType.Primary: "small", ModelProfileType.Secondary: "second"}
ROUNDS = 2
SUMMED = ("input_tokens", "cached_input_tokens", "output_tokens", "queue_s", "load_s", "prompt_eval_s", "decode_s")
PATIENCE_S = 60.0


class Seeded:
    """The run, and what it counts of itself."""

    WAITING: ClassVar = {int(PipelinePriority.HIGH): 1, int(PipelinePriority.LOW): 1}

    def __init__(self, model: Path) -> None:
        def profile(name: str) -> ModelProfile:
            return ModelProfile(model_path=model, name=name, n_ctx=512, sampling=Sampling(temperature=0.0, seed=7))

        self.composer = ComposerService()
        self.factory = PipelineFactory({kind: profile(name) for kind, name in MODELS.items()}, max_loaded=1)
        self.runs: list[dict[str, str | None]] = []
        self.nodes: Counter[tuple[str, str, str]] = Counter()
        self.retries: Counter[tuple[str, str]] = Counter()
        self.generations: list[dict[str, Any]] = []
        self.tools = 0

    def model_node(self, priority: PipelinePriority, max_tokens: int, prompt: str, **more: Any) -> PipelineNode:
        return PipelineNode(
            pipeline_factory=self.factory,
            priority=priority,
            prompt=lambda _state: prompt,
            sampling=Sampling(max_tokens=max_tokens),
            **more,
        )

    async def run(self, graph: Any, start: Any, outcome: str, thread: str | None = None) -> None:
        """Runs a graph to its end and checks that it ended as it is meant to."""
        trace_id = None
        state: dict[str, Any] = {}
        ended = "ok"
        config = {"configurable": {"thread_id": thread}} if thread else {}
        try:
            async for event in self.composer.execute_workflow(graph, start, config=config):
                trace_id = event["metadata"]["trace_id"]
                if event["event"] == "on_chain_end" and not event["parent_ids"]:
                    state = event["data"]["output"]
        except ValueError:
            ended = "error"
        if thread and (await graph.aget_state(config)).interrupts:
            ended = "interrupted"
        assert ended == outcome, f"{graph.get_name()} ended {ended}"
        self.runs.append({"workflow": graph.get_name(), "status": ended, "trace_id": trace_id})
        self.generations += [
            {**entry, "workflow": graph.get_name()} for entry in state.get("node_metadata", {}).values()
        ]

    async def two_priorities(self) -> None:
        """`tell` keeps the model busy until a request of each priority waits; the waiting requests are exported."""
        tell = StateGraph(WorkflowState)
        tell.add_node("tell", self.model_node(PipelinePriority.NORMAL, 96, "Tell a long story of a lighthouse."))
        tell.add_edge(START, "tell")
        ask = StateGraph(WorkflowState)
        ask.add_node("urgent", self.model_node(PipelinePriority.HIGH, 16, "Name three rivers of Europe."))
        ask.add_node("background", self.model_node(PipelinePriority.LOW, 16, "Name three mountains of Europe."))
        ask.add_edge(START, "urgent")
        ask.add_edge(START, "background")
        story, chat = tell.compile(name="story"), ask.compile(name="chat")

        def waiting() -> Counter[int]:
            return self.factory.queue_length(ModelProfileType.Primary)

        for _ in range(ROUNDS):
            state = WorkflowState.from_prompt("seeded", user_id="u1", conversation_id="c1")
            telling = asyncio.create_task(self.run(story, state, "ok"))
            await self._until(lambda: self.factory.running(ModelProfileType.Primary) is not None, "nothing runs")
            asking = asyncio.create_task(self.run(chat, state, "ok"))
            await self._until(lambda: waiting() == self.WAITING, "no request waits")
            await asyncio.to_thread(_export_metrics)  # its readings are its first step, long before the story's end
            await asyncio.gather(telling, asking)
            self.nodes["story", "tell", "ok"] += 1
            self.nodes["chat", "urgent", "ok"] += 1
            self.nodes["chat", "background", "ok"] += 1

    @staticmethod
    async def _until(condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{otherwise} after {PATIENCE_S} s"
            await asyncio.sleep(0.002)

    async def retry(self) -> None:
        """A node that fails at its first attempt, and a tool call."""
        attempts = 0

        @tool
        def look_up(word: str) -> str:
            """Looks a word up."""
            return word.upper()

        def flaky(_state: WorkflowState) -> dict[str, Any]:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise ConnectionError("seeded: the first attempt fails")
            look_up.invoke({"word": "river"})
            self.tools += 1
            return {}

        graph: Any = StateGraph(WorkflowState)
        graph.add_node("flaky", flaky, retry_policy=RetryPolicy(max_attempts=2, initial_interval=0.01))
        graph.add_edge(START, "flaky")
        await self.run(graph.compile(name="lookup"), WorkflowState.from_prompt("seeded"), "ok")
        self.nodes["lookup", "flaky", "ok"] += 1
        self.retries["lookup", "flaky"] += 1

    async def error(self) -> None:
        """A model's answer, and a node that cannot work with it."""

        def broken(_state: WorkflowState) -> dict[str, Any]:
            raise ValueError("seeded: this node fails")

        graph: Any = StateGraph(WorkflowState)
        second = ModelProfileType.Secondary
        graph.add_node("draft", self.model_node(PipelinePriority.NORMAL, 8, "Say hello.", profile_type=second))
        graph.add_node("broken", broken)
        graph.add_edge(START, "draft")
        graph.add_edge("draft", "broken")
        before = len(self.generations)
        workflow = graph.compile(name="failing", checkpointer=InMemorySaver())
        await self.run(workflow, WorkflowState.from_prompt("seeded"), "error", thread="t-error")
        # A failed run has no last state in its events; what its first node wrote is in the checkpoint.
        state = (await workflow.aget_state({"configurable": {"thread_id": "t-error"}})).values
        self.generations += [{**entry, "workflow": "failing"} for entry in state["node_metadata"].values()]
        assert len(self.generations) == before + 1
        self.nodes["failing", "draft", "ok"] += 1
        self.nodes["failing", "broken", "error"] += 1

    async def interrupted(self) -> None:
        """A node that interrupts for a human, and the run that answers it."""

        def review(_state: WorkflowState) -> dict[str, Any]:
            interrupt("seeded: is this right?")
            return {}

        graph: Any = StateGraph(WorkflowState)
        graph.add_node("review", review)
        graph.add_edge(START, "review")
        workflow = graph.compile(name="approval", checkpointer=InMemorySaver())
        await self.run(workflow, WorkflowState.from_prompt("seeded"), "interrupted", thread="t-interrupt")
        self.nodes["approval", "review", "interrupted"] += 1
        await self.run(workflow, Command(resume="yes"), "ok", thread="t-interrupt")
        self.nodes["approval", "review", "ok"] += 1

    def facts(self) -> dict[str, Any]:
        """The executed work, as plain JSON."""
        return {
            "service": SERVICE,
            "runs": self.runs,
            "nodes": [
                {"workflow": workflow, "node": node, "status": status, "count": count}
                for (workflow, node, status), count in self.nodes.items()
            ],
            "retries": [{"workflow": flow, "node": node, "count": n} for (flow, node), n in self.retries.items()],
            "generations": self.generations,
            "models": {name: self._of_model(name) for name in MODELS.values()},
            "queue_seen": {str(priority): count for priority, count in self.WAITING.items()},
            "evictions": self.factory.evictions,
            "tool_calls": self.tools,
        }

    def _of_model(self, name: str) -> dict[str, Any]:
        of_model = [one for one in self.generations if one["model_name"] == name]
        return {
            "calls": len(of_model),
            "loads": sum(one["cache_status"] == "loaded" for one in of_model),
            "by_priority": Counter(one["priority"] for one in of_model),
            "finish_reasons": Counter(one["finish_reason"] for one in of_model),
            **{key: sum(one.get(key, 0) for one in of_model) for key in SUMMED},
        }


def _export_metrics() -> None:
    """Sends the current values of the instruments; without an SDK provider there are none."""
    flush = getattr(metrics.get_meter_provider(), "force_flush", None)
    if flush is not None:
        flush()


async def do_all(seeded: Seeded) -> None:
    await seeded.two_priorities()
    await seeded.retry()
    await seeded.error()
    await seeded.interrupted()


def main(model: Path) -> None:
    """Runs everything, delivers it, and returns what it was."""
    started = time.time()
    with nodespan.configure(service_name=SERVICE) as telemetry:
        nodespan.instrument()
        seeded = Seeded(model)
        with seeded.factory:
            asyncio.run(do_all(seeded))
            facts = seeded.facts()
            _export_metrics()  # once with the last model still loaded,
            time.sleep(STANDS_S)  # long enough to be sampled
        report = telemetry.force_flush(PATIENCE_S)
    delivery = {"ended": report.ended, "exported": report.exported, "waiting": report.waiting}
    facts |= {"started_at": started, "ended_at": time.time(), "delivery": delivery}
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
