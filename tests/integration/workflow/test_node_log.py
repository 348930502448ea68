"""Log records of a PipelineNode."""

from __future__ import annotations

import contextlib
import logging

from langgraph.checkpoint.memory import MemorySaver
from langgraph.types import interrupt

from nodespan.workflow import ComposerService, WorkflowState
from workflow_graphs import collect, one_node

ANSWER = "one two three"


async def test_log_records_have_the_ids_of_the_node(node, tracer_provider, caplog, exporter):
    caplog.set_level(logging.DEBUG, "nodespan.node")
    await collect(ComposerService(tracer_provider=tracer_provider), one_node(node()), WorkflowState.from_prompt(ANSWER))
    span = next(span for span in exporter.get_finished_spans() if span.name == "invoke_node analyse")
    records = [record for record in caplog.records if record.name == "nodespan.node"]
    assert len(records) >= 2
    for record in records:
        assert record.span_id == f"{span.context.span_id:016x}"
        assert record.trace_id == f"{span.context.trace_id:032x}"
        assert record.node_id == span.attributes["nodespan.node_id"]
        assert record.node_name == "analyse"


def test_only_a_failed_execution_logs_a_warning_and_it_has_a_code(node, caplog):
    def fails(state):
        raise ValueError("no")

    for prompt, levels in ((fails, ["WARNING"]), (lambda state: interrupt("which?"), [])):
        caplog.clear()
        with contextlib.suppress(ValueError):
            one_node(node(prompt=prompt), checkpointer=MemorySaver()).invoke(
                WorkflowState.from_prompt(ANSWER), {"configurable": {"thread_id": "1"}}
            )
        records = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.levelname for record in records] == levels
        assert {getattr(record, "nodespan.code", None) for record in records} <= {"workflow.node_failed"}
