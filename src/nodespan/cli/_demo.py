"""`nodespan demo`: runs a workflow on a local model, streams its answers, and shows its trace."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from rich.text import Text

from nodespan.cli._tree import render_tree
from nodespan.cli._words import SHORT_ID
from nodespan.cli._workflow import (
    DEFAULT_PROMPT,
    find_model,
    local_profile,
    make_factory,
    make_workflow,
    server_profile,
)
from nodespan.errors import NodespanError
from nodespan.store import StoreReader
from nodespan.telemetry import configure
from nodespan.workflow import ComposerService, WorkflowState

if TYPE_CHECKING:
    from nodespan.cli._output import Console
    from nodespan.types import ModelProfile

JAEGER_UI_PORT: Final = 16686
GRPC_PORT: Final = ":4317"
"""Port of gRPC by OpenTelemetry's convention."""
_FLUSH_S: Final = 10.0


def show_demo(
    console: Console, prompt: str | None, model: Path | None, otlp: str | None, server: str | None = None
) -> None:
    """Runs the demo, shows its trace, and prints further ways to view it."""
    profile = server_profile(server) if server else local_profile(model or find_model())
    protocol = "grpc" if otlp and otlp.rstrip("/").endswith(GRPC_PORT) else None
    with configure(service_name="nodespan-demo", endpoint=otlp, protocol=protocol) as telemetry:
        trace_id = run_demo(console, prompt or DEFAULT_PROMPT, profile)
        report = telemetry.force_flush(_FLUSH_S)
        if telemetry.store is None or trace_id is None:
            console.print("\nNo trace was stored: the OTEL_* variables disable traces or export them only.")
            return
        console.print()
        with StoreReader(telemetry.store) as reader:
            spans = reader.get(trace_id)["spans"]
        for tree in render_tree(spans, console.width):
            console.print(tree)
        console.print(f"\nShow it again: {command()} trace {trace_id[:SHORT_ID]}", soft_wrap=True)
        console.print(f"In the browser: {command()} ui {trace_id[:SHORT_ID]} --open", soft_wrap=True)
        if (destination := telemetry.settings.endpoint_of("traces")) is None:
            return
        if report:
            console.print(f"In Jaeger: {jaeger_address(destination, trace_id)}", soft_wrap=True)
        else:
            console.print(
                f"{report.waiting} of {report.ended} spans have not reached {destination}; "
                "they wait in the store and are sent at the next start.",
                soft_wrap=True,
            )


def run_demo(console: Console, prompt: str, profile: ModelProfile) -> str | None:
    """Streams the workflow's answers to the console.

    Returns:
        The run's trace id, or ``None`` without a real tracer provider.

    Raises:
        NodespanError: The model failed.
    """
    console.print(prompt, style="bold")
    with make_factory(profile) as factory:
        try:
            return asyncio.run(_stream(console, make_workflow(factory), prompt))
        except (ValueError, RuntimeError) as error:  # llama.cpp's own error, such as that of a prompt that is too long
            raise NodespanError(f"The model failed: {error}. List failed traces: nodespan traces --error") from error


async def _stream(console: Console, workflow: Any, prompt: str) -> str | None:
    state = WorkflowState.from_prompt(prompt, user_id="demo", conversation_id="demo")
    trace_id: str | None = None
    answers = _Answers(console)
    async for event in ComposerService().execute_workflow(workflow, state):
        trace_id = event["metadata"]["trace_id"]
        if event["name"] == "pipeline_chunk":
            answers.add(event["metadata"]["node_name"], event["data"]["content"], is_last="metadata" in event["data"])
    console.print()
    return trace_id


class _Answers:
    """Prints answers as they arrive. Answers of parallel nodes are printed one after the other."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = ""
        self._kept: dict[str, str] = {}
        self._ended: set[str] = set()

    def add(self, node: str, text: str, *, is_last: bool) -> None:
        """Prints or buffers a part of a node's answer."""
        self._kept[node] = self._kept.get(node, "") + text
        if is_last:
            self._ended.add(node)
        while self._kept:
            node = next(iter(self._kept))
            if node != self._printed:
                self._console.print()
                self._console.print(Text(f"{node}  ", "cyan"), end="")
                self._printed = node
            self._console.print(self._kept[node], end="", soft_wrap=True)
            self._kept[node] = ""
            if node not in self._ended:
                return
            del self._kept[node]


def command() -> str:
    """The command as the user can type it: its environment may not be on the PATH, as after ``make demo``."""
    return Path(sys.argv[0]).name if shutil.which(Path(sys.argv[0]).name) else sys.argv[0]


def jaeger_address(endpoint: str, trace_id: str) -> str:
    """Address of the trace in Jaeger, if that runs beside the collector as in ``docker-compose.yml``."""
    return f"http://{urlsplit(endpoint).hostname or 'localhost'}:{JAEGER_UI_PORT}/trace/{trace_id}"
