"""Thin wrappers around LangGraph's seams. Each encloses the original call in one frame, so attach and detach are exact.

A wrapper acts only for runs that are claimed: by ``instrument()``, which claims every run, or by a ComposerService,
whose run's owner is found in the context. Nothing else changes hands: arguments, results, exceptions are passed on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

from langgraph.errors import GraphInterrupt
from opentelemetry import context as context_api

from nodespan.instrumentation.langgraph import _convert
from nodespan.instrumentation.langgraph._spans import NodeOwner, WorkflowOwner, open_node
from nodespan.spans.guard import Guard
from nodespan.spans.owner import Attached, SpanOwner, current_owner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

Steps: TypeAlias = "Generator[Any, None, None]"
AsyncSteps: TypeAlias = "AsyncGenerator[Any, None]"

_OPENING = Guard("open a LangGraph span")
_RESUMING = "__pregel_resuming"
"""LangGraph sets this key for the attempt that follows a failed one, right after it has waited the back-off."""


class Claim:
    """Whether every run is claimed, and with which tracer."""

    tracer: Tracer | None = None


class _Opening:
    """What is known of a graph run at the call, for its span to be opened at the first step."""

    __slots__ = ("args", "context", "graph", "kwargs")

    def __init__(self, graph: _convert.Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.graph = graph
        self.args = args
        self.kwargs = kwargs
        self.context = context_api.get_current()

    def open(self) -> _Run | None:
        """The run's span: one that was offered for it, or a new one under the caller's."""
        with _OPENING:
            outer = current_owner(self.context)
            if isinstance(outer, WorkflowOwner) and outer.adopt():
                owner, adopted = outer, True
            else:
                owner, adopted = self._own(outer), False
            owner.channels = frozenset(self.graph.channels)
            return _Run(owner, adopted=adopted)
        return None

    def _own(self, outer: SpanOwner | None) -> WorkflowOwner:
        run_input, config = _convert.call_arguments(self.args, self.kwargs)
        tracer = outer.tracer if outer is not None else Claim.tracer
        assert tracer is not None
        name = config.get("run_name") or self.graph.get_name()
        return WorkflowOwner(tracer, name, config, run_input, parent=self.context)


class _Run:
    """Makes the run's span current for each step of its generator, over the context the consumer has at that step."""

    __slots__ = ("_adopted", "_base", "_over", "_owner")

    def __init__(self, owner: WorkflowOwner, *, adopted: bool) -> None:
        self._owner = owner
        self._adopted = adopted
        self._base: Context | None = None
        self._over = context_api.get_current()

    def step(self) -> Attached:
        base = context_api.get_current()
        if base is not self._base:
            self._base, self._over = base, self._owner.context_over(base)
        return Attached(self._over)

    def leave(self, error: BaseException | None = None) -> None:
        """An adopted span is ended by whoever offered it."""
        if not self._adopted:
            self._owner.leave(error)


def stream(original: Callable[..., Steps]) -> Callable[..., Steps]:
    """Wraps ``Pregel.stream``, where ``invoke``, ``batch`` and the event streams end too."""

    @functools.wraps(original)
    def wrapper(self: _convert.Graph, *args: Any, **kwargs: Any) -> Steps:
        steps = original(self, *args, **kwargs)
        if Claim.tracer is None and current_owner() is None:
            return steps
        return _stream(_Opening(self, args, kwargs), steps)

    return wrapper


def _stream(opening: _Opening, steps: Steps) -> Steps:
    run = opening.open()
    if run is None:
        yield from steps
        return
    try:
        while True:
            with run.step():
                try:
                    item = next(steps)
                except StopIteration:
                    break
            yield item
    except BaseException as error:
        with run.step():
            steps.close()
        run.leave(error)
        raise
    run.leave()


def astream(original: Callable[..., AsyncSteps]) -> Callable[..., AsyncSteps]:
    """Wraps ``Pregel.astream``."""

    @functools.wraps(original)
    def wrapper(self: _convert.Graph, *args: Any, **kwargs: Any) -> AsyncSteps:
        steps = original(self, *args, **kwargs)
        if Claim.tracer is None and current_owner() is None:
            return steps
        return _astream(_Opening(self, args, kwargs), steps)

    return wrapper


async def _astream(opening: _Opening, steps: AsyncSteps) -> AsyncSteps:
    run = opening.open()
    if run is None:
        async for item in steps:
            yield item
        return
    try:
        while True:
            with run.step():
                try:
                    item = await anext(steps)
                except StopAsyncIteration:
                    break
            yield item
    except BaseException as error:
        with run.step():
            await steps.aclose()
        run.leave(error)
        raise
    run.leave()


def run_with_retry(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``_runner.run_with_retry``: every execution of a task in a sync run."""

    @functools.wraps(original)
    def wrapper(task: _convert.Task, *args: Any, **kwargs: Any) -> Any:
        owner = _open_node(task)
        if owner is None:
            return original(task, *args, **kwargs)
        with owner.attached():
            try:
                result = original(task, *args, **kwargs)
            except BaseException as error:
                owner.leave(error)
                raise
        owner.leave()
        return result

    return wrapper


def arun_with_retry(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``_runner.arun_with_retry``: every execution of a task in an async run."""

    @functools.wraps(original)
    async def wrapper(task: _convert.Task, *args: Any, **kwargs: Any) -> Any:
        owner = _open_node(task)
        if owner is None:
            return await original(task, *args, **kwargs)
        with owner.attached():
            try:
                result = await original(task, *args, **kwargs)
            except BaseException as error:
                owner.leave(error)
                raise
        owner.leave()
        return result

    return wrapper


def _open_node(task: _convert.Task) -> NodeOwner | None:
    parent = current_owner()
    if parent is None:
        return None
    with _OPENING:
        if not _convert.is_hidden(task):
            return open_node(task, parent)
    return None


def should_retry_on(original: Callable[..., bool]) -> Callable[..., bool]:
    """Wraps ``_retry._should_retry_on``, which LangGraph asks after each attempt that failed under a retry policy."""

    @functools.wraps(original)
    def wrapper(retry_policy: Any, error: Exception) -> bool:
        retries = original(retry_policy, error)
        if retries and isinstance(owner := current_owner(), NodeOwner):
            owner.attempt_failed(error)
        return retries

    return wrapper


def patch_configurable(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``_retry.patch_configurable``, called with the resuming key when the back-off is over."""

    @functools.wraps(original)
    def wrapper(config: Any, patch: dict[str, Any]) -> Any:
        if _RESUMING in patch and isinstance(owner := current_owner(), NodeOwner):
            owner.next_attempt()
        return original(config, patch)

    return wrapper


def suppress_interrupt(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``PregelLoop._suppress_interrupt``: where a run's interrupt, dynamic or static, becomes a normal end."""

    @functools.wraps(original)
    def wrapper(self: Any, kind: Any, error: BaseException | None, traceback: Any) -> Any:
        if isinstance(error, GraphInterrupt) and isinstance(owner := current_owner(), WorkflowOwner):
            owner.interrupted = True
        return original(self, kind, error, traceback)

    return wrapper
