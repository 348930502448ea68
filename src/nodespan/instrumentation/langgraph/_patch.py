"""Thin wrappers around LangGraph's seams. Each encloses the original call in one frame, so attach and detach are exact.

A wrapper affects only claimed runs: all runs after ``instrument()``, or the runs of a ComposerService, which are found
in the context. Arguments, results and exceptions are passed on unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from langgraph.errors import GraphInterrupt

from nodespan.instrumentation._steps import AsyncSteps, Steps, in_async_steps, in_steps
from nodespan.instrumentation.langgraph._edges import execution_failed, of_execution, run_entered
from nodespan.instrumentation.langgraph._resume import (
    Loop,
    is_unfinished,
    link_resumed,
    remember_unfinished,
    resumes,
)
from nodespan.instrumentation.langgraph._run import STATE, DeferredRun, defer_run
from nodespan.instrumentation.langgraph._spans import NodeSpan, WorkflowSpan, open_node
from nodespan.spans.guard import Guard
from nodespan.spans.scope import current_scope, enclosing

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from nodespan.instrumentation.langgraph._convert import Graph, Task
    from nodespan.spans.scope import SpanScope

_OPENING = Guard("open a LangGraph span")
_IDENTIFYING = Guard("read the identity of a LangGraph run")
_LINKING = Guard("link a resumed run to the run it resumes")
_RESUMING = "__pregel_resuming"
"""LangGraph sets this key for the attempt after a failed one, directly after the back-off."""


Defer = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[DeferredRun, tuple[Any, ...], dict[str, Any]]]
"""Creates the run of a call from its graph and arguments; returns it with the arguments for the original method."""


def stream(original: Callable[..., Steps], defer: Defer = defer_run) -> Callable[..., Steps]:
    """Wraps ``stream`` of a graph, which ``invoke``, ``batch`` and the event streams call."""

    @functools.wraps(original)
    def wrapper(self: Graph, *args: Any, **kwargs: Any) -> Steps:
        if STATE.tracer is None and current_scope() is None:
            return original(self, *args, **kwargs)
        run, args, kwargs = defer(self, args, kwargs)
        return in_steps(run.open, original(self, *args, **kwargs))

    return wrapper


def astream(original: Callable[..., AsyncSteps], defer: Defer = defer_run) -> Callable[..., AsyncSteps]:
    """Wraps ``astream`` of a graph."""

    @functools.wraps(original)
    def wrapper(self: Graph, *args: Any, **kwargs: Any) -> AsyncSteps:
        if STATE.tracer is None and current_scope() is None:
            return original(self, *args, **kwargs)
        run, args, kwargs = defer(self, args, kwargs)
        return in_async_steps(run.open, original(self, *args, **kwargs))

    return wrapper


def run_with_retry(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``_runner.run_with_retry``: every execution of a task in a sync run."""

    @functools.wraps(original)
    def wrapper(task: Task, *args: Any, **kwargs: Any) -> Any:
        context, around = enclosing()
        node = _open_node(task, around, context)
        if node is None:
            result = original(task, *args, **kwargs)
            run_entered(task, context)
            return result
        try:
            with node.attached(context):
                result = original(task, *args, **kwargs)
        except BaseException as error:
            execution_failed(node, task, error)
            node.leave(error)
            raise
        node.finish(attributes=of_execution(node, task))
        return result

    return wrapper


def arun_with_retry(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``_runner.arun_with_retry``: every execution of a task in an async run."""

    @functools.wraps(original)
    async def wrapper(task: Task, *args: Any, **kwargs: Any) -> Any:
        context, around = enclosing()
        node = _open_node(task, around, context)
        if node is None:
            result = await original(task, *args, **kwargs)
            run_entered(task, context)
            return result
        try:
            with node.attached(context):
                result = await original(task, *args, **kwargs)
        except BaseException as error:
            execution_failed(node, task, error)
            node.leave(error)
            raise
        node.finish(attributes=of_execution(node, task))
        return result

    return wrapper


def _open_node(task: Task, around: SpanScope | None, context: Context) -> NodeSpan | None:
    try:
        if around is not None:
            return open_node(task, around.tracer, around.instruments, around, context)
        if STATE.lacks_runs and (here := STATE.surroundings(context)) is not None:
            return open_node(task, here.tracer, here.instruments, None, context)
    except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
        _OPENING.failed(error)
    return None


def should_retry_on(original: Callable[..., bool]) -> Callable[..., bool]:
    """Wraps ``_retry._should_retry_on``, which LangGraph calls after each failed attempt under a retry policy."""

    @functools.wraps(original)
    def wrapper(retry_policy: Any, error: Exception) -> bool:
        retries = original(retry_policy, error)
        if retries and isinstance(node := current_scope(), NodeSpan):
            node.attempt_failed(error)
        return retries

    return wrapper


def patch_configurable(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``_retry.patch_configurable``, called with the resuming key when the back-off is over."""

    @functools.wraps(original)
    def wrapper(config: Any, patch: dict[str, Any]) -> Any:
        if _RESUMING in patch and isinstance(node := current_scope(), NodeSpan):
            node.next_attempt()
        return original(config, patch)

    return wrapper


def first(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``PregelLoop._first``: the checkpoint is loaded before, the input is applied to the state after."""

    @functools.wraps(original)
    def wrapper(self: Loop, *args: Any, **kwargs: Any) -> Any:
        run = current_scope()
        if not isinstance(run, WorkflowSpan):
            return original(self, *args, **kwargs)
        with _LINKING:
            if resumes(self):
                run.resumes(self.checkpoint["id"])
                link_resumed(self, run.link)
        result = original(self, *args, **kwargs)
        with _IDENTIFYING:
            run.loaded(self.channels)
        return result

    return wrapper


def suppress_interrupt(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``PregelLoop._suppress_interrupt``, where each run ends, and an interrupt becomes a normal end."""

    @functools.wraps(original)
    def wrapper(self: Loop, kind: Any, error: BaseException | None, traceback: Any) -> Any:
        suppressed = original(self, kind, error, traceback)
        if isinstance(run := current_scope(), WorkflowSpan):
            with _LINKING:
                if isinstance(error, GraphInterrupt):
                    run.interrupted(error)
                if is_unfinished(self, error):
                    run.leaves(self.checkpoint["id"])
                    remember_unfinished(self.checkpoint["id"], run.span)
        return suppressed

    return wrapper
