"""`nodespan demo`: a real workflow on a real local model, streamed live, and then the tree of its own trace."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nodespan.cli._workflow import make_factory, make_workflow
from nodespan.workflow import ComposerService, WorkflowState

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

JAEGER_UI_PORT = 16686


def run_demo(console: Console, prompt: str, model: Path) -> str | None:
    """Streams the workflow's answers to the console.

    Returns:
        The run's trace id, or ``None`` without a real tracer provider.
    """
    console.print(f"[bold]{prompt}[/bold]", highlight=False)
    with make_factory(model) as factory:
        return asyncio.run(_stream(console, make_workflow(factory), prompt))


async def _stream(console: Console, workflow: Any, prompt: str) -> str | None:
    state = WorkflowState.from_prompt(prompt, user_id="demo", conversation_id="demo")
    trace_id: str | None = None
    speaking = ""
    async for event in ComposerService().execute_workflow(workflow, state):
        trace_id = event["metadata"]["trace_id"]
        if event["name"] != "pipeline_chunk":
            continue
        if (node := event["metadata"]["node_name"]) != speaking:
            console.print(f"\n[cyan]{node}[/cyan]  ", end="", highlight=False)
            speaking = node
        console.print(event["data"]["content"], end="", markup=False, highlight=False, soft_wrap=True)
    console.print()
    return trace_id


def jaeger_address(endpoint: str, trace_id: str) -> str:
    """Where Jaeger's page shows the trace, if it runs beside the collector as in ``docker-compose.yml``."""
    return f"http://{urlsplit(endpoint).hostname or 'localhost'}:{JAEGER_UI_PORT}/trace/{trace_id}"
