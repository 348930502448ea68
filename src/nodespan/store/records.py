"""The records of the read model: plain dictionaries that ``json.dumps(record, allow_nan=False)`` accepts.

Conventions of every record:

- Ids are lower-case hex. ``parent_span_id`` is an empty string for a root span.
- ``*_ns`` is Unix time in nanoseconds, an ``int``. JavaScript rounds such a number to about 256 ns.
- ``*_s`` is a duration in seconds, a ``float``.
- Values of attributes are as OTLP's JSON has them: ``NaN`` and the infinities are the strings ``"NaN"``,
  ``"Infinity"`` and ``"-Infinity"``; bytes are base64 text.
- A key that does not apply is present with ``None`` or an empty list, never absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from nodespan.spans.phases import PhaseName

State = Literal["ended", "running", "silent", "lost"]
"""The state of a span or trace.

- ``ended``: the span has ended and is stored.
- ``running``: the span is open, and its process wrote a heartbeat within the last 5 s.
- ``silent``: the process exists, but its last heartbeat is older than 5 s (stopped, swapped out, blocked).
- ``lost``: the process ended without ending the span (killed, crashed, out of memory). It will never end.

A trace is ``running`` if one of its spans is, else ``silent`` if one is, else ``lost`` if one is, else ``ended``.
"""

Phase = PhaseName
"""What an open span does.

- ``queued``: waits for the model; ``position`` is the number of generations before it.
- ``loading``: the model's file is loaded.
- ``prefilling``: ``done`` of ``total`` prompt tokens are evaluated.
- ``decoding``: ``done`` tokens are generated.
- ``retrying``: waits until a failed attempt is repeated; ``text`` is the class of its error.
- ``tool``: waits for the tool named in ``text``.
"""


class PhaseRecord(TypedDict):
    """A phase and its progress at ``at_ns``.

    Attributes:
        name: The phase.
        since_ns: Start of the phase.
        at_ns: Time of the reading; at most about 1 s old while the process is running.
        done: Tokens so far, for ``prefilling`` and ``decoding``.
        total: Tokens in all, for ``prefilling``.
        position: Generations ahead in the queue, for ``queued``.
        text: The tool's name, or the error's class for ``retrying``; no content.
    """

    name: Phase
    since_ns: int
    at_ns: int
    done: int | None
    total: int | None
    position: int | None
    text: str


class ProcessRecord(TypedDict):
    """The process of an open span.

    Attributes:
        id: Random, one per process and store; a forked child has its own.
        pid: The operating system's id.
        start_ns: When the process first wrote to the store.
        heartbeat_ns: Its last heartbeat.
        silent_s: Time since the last heartbeat, by a monotonic clock; ``None`` after a restart of the machine.
    """

    id: str
    pid: int
    start_ns: int
    heartbeat_ns: int
    silent_s: float | None


class EventRecord(TypedDict):
    """An event of a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


class LinkRecord(TypedDict):
    """A link to another span."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any]


class EdgeRecord(TypedDict):
    """An edge of the graph that a node execution took.

    The executions of its target are those below the same run with the next greater ``langgraph.step``
    (``nodespan.store.join_edges``). A ``join`` is executed after all of its sources; a deferred node after all others.

    Attributes:
        target: LangGraph's name of the target node, or ``__end__``.
        kind: ``edge``; ``branch`` (conditional edges, ``Command(goto)``, error handlers); ``send``; ``join`` (waits for
            several nodes); ``implied`` (to END, which LangGraph does not record).
        is_declared: The graph declares the edge.
        count: Number of requested executions: of ``send`` one for each ``Send`` to the target, else 1.
    """

    target: str
    kind: str
    is_declared: bool
    count: int


class WriteRecord(TypedDict):
    """A channel that a node execution wrote.

    Attributes:
        channel: The channel's name.
        type: Name of the value's type.
        size_bytes: Size of its canonical form (JSON with sorted keys); ``None`` where it has none, or is large.
        is_large: It is longer than 64 KiB or has more than 1,000 elements, and has no hmac.
        hmac: The first 16 hex digits of its HMAC-SHA256 under the store's key; ``None`` where it has no canonical form.
        value: The value as JSON text, only where content is captured.
    """

    channel: str
    type: str
    size_bytes: int | None
    is_large: bool
    hmac: str | None
    value: str | None


class SpanRecord(TypedDict):
    """A span, ended or open.

    Attributes:
        trace_id: The trace.
        span_id: The span; with ``trace_id`` it identifies the record.
        parent_span_id: Its parent; empty for a root.
        name: Its name.
        kind: ``INTERNAL``, ``SERVER``, ``CLIENT``, ``PRODUCER`` or ``CONSUMER``.
        start_ns: Its start.
        end_ns: Its end; ``None`` unless ``state`` is ``ended``.
        duration_s: From its start to its end; until now if it is running or silent, until the last heartbeat if lost.
        state: See ``State``.
        status_code: ``UNSET``, ``OK`` or ``ERROR``; ``UNSET`` while it is open.
        status_message: Description of an error.
        attributes: Of an open span, those that it had when its row was written, about 80 ms after its start.
        resource: Attributes of the resource (``service.name``, ...).
        scope: Name of the instrumentation scope.
        events: In order.
        links: In order.
        phase: What an open span does, or did last; ``None`` for an ended span and where no phase is known.
        process: The process of an open span; ``None`` for an ended one.
        edges: Taken edges of a node execution; of a run those from its start.
        writes: Channels that a node execution wrote.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int | None
    duration_s: float
    state: State
    status_code: str
    status_message: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str
    events: list[EventRecord]
    links: list[LinkRecord]
    phase: PhaseRecord | None
    process: ProcessRecord | None
    edges: list[EdgeRecord]
    writes: list[WriteRecord]


class TraceRecord(TypedDict):
    """A trace in a list.

    Attributes:
        trace_id: The trace.
        name: Name of the span that started first (the root, if two started at once).
        service: ``service.name`` of that span.
        start_ns: Start of that span.
        end_ns: The latest end of a span; ``None`` while a span is running or silent.
        duration_s: From ``start_ns`` to ``end_ns``; until now while it runs, until the last heartbeat if it is lost.
        state: See ``State``.
        spans: Number of stored ended spans.
        errors: Number of them with status ``ERROR``.
        running: Number of open spans with a row (running or silent).
        lost: Number of lost spans.
        phase: Phase of the open span that started last; ``None`` if there is none.
        tokens_in: Input tokens of its stored model calls; ``None`` if none of them has usage.
        tokens_out: Output tokens, likewise.
        decode_s: Sum of their times of decoding; ``None`` where none was measured. Speed: ``tokens_out / decode_s``.
        is_interrupted: Its run stopped at an interrupt.
        resumes: Id of the trace whose run it resumes; ``None`` if it does not.
        labels: Searchable values by kind (``service``, ``workflow``, ``node``, ``model``,
            ``conversation``, ``user``, ``tag``, ``metadata`` as ``key=value``, ``graph`` as a topology's hash), sorted.
    """

    trace_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int | None
    duration_s: float
    state: State
    spans: int
    errors: int
    running: int
    lost: int
    phase: PhaseRecord | None
    tokens_in: int | None
    tokens_out: int | None
    decode_s: float | None
    is_interrupted: bool
    resumes: str | None
    labels: dict[str, list[str]]


class GraphRecord(TypedDict):
    """A declared graph.

    Attributes:
        hash: The sha256 of its canonical form, the value of ``langgraph.graph.hash``.
        topology: Nodes, edges, branches and subgraphs as ``langgraph.graph.topology`` has them.
    """

    hash: str
    topology: dict[str, Any]


class TraceContent(TypedDict):
    """A trace with its spans.

    Attributes:
        trace: Its record.
        spans: Ended and open ones, each once, by start (the longer first where two started at once).
        graphs: The declared graphs of its runs, by hash.
    """

    trace: TraceRecord
    spans: list[SpanRecord]
    graphs: dict[str, GraphRecord]


class Changes(TypedDict):
    """What has changed since a cursor.

    Attributes:
        cursor: For the next call. An opaque text; it is valid for this store only.
        is_reset: The store was replaced (removed, damaged): drop everything read from it; ``find`` again.
        has_more: More changes are ready; call again at once.
        traces: Current records of the traces with changes, by start; with ``running``, of all traces in it too.
        spans: Newly ended spans, in the order in which they were stored. One with the ids of an open span replaces it.
        running: All open and lost spans now, if their rows have changed since the cursor; they replace those of the
            call before. ``None`` if nothing has changed.
    """

    cursor: str
    is_reset: bool
    has_more: bool
    traces: list[TraceRecord]
    spans: list[SpanRecord]
    running: list[SpanRecord] | None


class StoreStatus(TypedDict):
    """How a store is read.

    Attributes:
        path: The outbox's file, or ``memory``.
        spans: Stored spans.
        size_bytes: Size of the stored batches.
        indexed_spans: Spans in the index; less than ``spans`` while it is being filled.
        is_copy: The file is read as a copy without writers (``immutable=1``): ``follow`` finds no changes.
        untracked: Number of spans so far of running processes without a row, because 10,000 of their process had one,
            or more than 65,536 were started while the store could not be written.
        is_index_temporary: The index is not kept, because the folder cannot be written or the file is a copy.
        sees_running: Running spans of other processes are visible (not with ``NODESPAN_STORE=memory``).
    """

    path: str
    spans: int
    size_bytes: int
    indexed_spans: int
    is_copy: bool
    is_index_temporary: bool
    untracked: int
    sees_running: bool


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """A filter of traces: every given field must match a span of the trace.

    Attributes:
        trace_id: Prefix of the trace's id.
        service: Value of ``service.name``.
        workflow: Name of a workflow.
        node: LangGraph's name of a node, or its display name.
        model: Requested model.
        conversation: Value of ``gen_ai.conversation.id``.
        user: Value of ``user.id``.
        tags: Tags of a run's config, all of them.
        metadata: Metadata of a run's config as ``key=value``, all of them.
        graph: Hash of a declared graph.
        min_duration_s: Of the whole trace.
        is_error: A span of it failed.
        is_running: It has a span that is running, silent or lost.
        since_ns: Its start is at or after this time.
        until_ns: Its start is before this time.
        before: Trace id of the last record of the previous page; only older traces match.
    """

    trace_id: str | None = None
    service: str | None = None
    workflow: str | None = None
    node: str | None = None
    model: str | None = None
    conversation: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    graph: str | None = None
    min_duration_s: float | None = None
    is_error: bool = False
    is_running: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    before: str | None = None


ANY: Final = TraceFilter()
"""The filter of all traces."""
