"""The seams of LangGraph: wrapped functions, the data lost without them, and their substitutes."""

from __future__ import annotations

from functools import partial
from typing import Final

from nodespan.instrumentation._seams import Seam, Seams
from nodespan.instrumentation.langgraph import _patch, _remote_events
from nodespan.instrumentation.langgraph._fallback import listen
from nodespan.instrumentation.langgraph._remote import defer_remote_run
from nodespan.instrumentation.langgraph._run import STATE

_RUNNER: Final = "langgraph.pregel._runner"
_RETRY: Final = "langgraph.pregel._retry"
_REMOTE: Final = ("langgraph.pregel.remote", "RemoteGraph")
_LOOP: Final = "langgraph.pregel._loop"

RUNS: Final = (
    Seam("langgraph.pregel", "Pregel", "stream", _patch.stream, "spans of sync runs: their nodes have no parent"),
    Seam("langgraph.pregel", "Pregel", "astream", _patch.astream, "spans of async runs: their nodes have no parent"),
)
NODES: Final = (
    Seam(_RUNNER, "", "run_with_retry", _patch.run_with_retry, "current spans in sync nodes"),
    Seam(_RUNNER, "", "arun_with_retry", _patch.arun_with_retry, "current spans in async nodes"),
)
SEAMS: Final = Seams(
    "LangGraph 0.6 and newer",
    (
        *RUNS,
        Seam(*_REMOTE, "stream", partial(_patch.stream, defer=defer_remote_run), "runs of remote graphs"),
        Seam(*_REMOTE, "astream", partial(_patch.astream, defer=defer_remote_run), "async runs of remote graphs"),
        *NODES,
        Seam(_RETRY, "", "_should_retry_on", _patch.should_retry_on, "events of failed attempts"),
        Seam(
            _RETRY,
            "",
            "patch_configurable",
            _patch.patch_configurable,
            "numbers and durations of attempts after the first, and retries,",
        ),
        Seam(
            _LOOP,
            "PregelLoop",
            "_suppress_interrupt",
            _patch.suppress_interrupt,
            "interrupts on the run's span, and links to it",
        ),
        Seam(_LOOP, "PregelLoop", "_first", _patch.first, "links from resumed runs, and ids from checkpoints"),
    ),
)


REMOTE_EVENTS: Final = Seams(
    "a LangGraph with event streams of remote graphs",
    (
        Seam(*_REMOTE, "stream_events", _remote_events.stream_events, "event streams of remote graphs"),
        Seam(*_REMOTE, "astream_events", _remote_events.astream_events, "async event streams of remote graphs"),
    ),
    is_newer=True,
)


def install(claimant: object) -> None:
    """Wraps LangGraph as long as the claimant exists; a missing seam with a substitute is replaced by it."""
    missing = SEAMS.install(claimant)
    REMOTE_EVENTS.install(claimant)
    STATE.lacks_runs = not set(RUNS).isdisjoint(missing)
    STATE.lacks_nodes = not set(NODES).isdisjoint(missing)
    if STATE.lacks_nodes:
        listen()


def release(claimant: object) -> None:
    """Restores LangGraph when no other claimant is left."""
    REMOTE_EVENTS.release(claimant)
    SEAMS.release(claimant)
