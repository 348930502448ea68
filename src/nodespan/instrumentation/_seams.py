"""Installs and removes wrappers, and logs a warning when a library lacks what is to be wrapped."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from weakref import WeakSet

from nodespan.spans.fork_lock import ForkLock
from nodespan.spans.log import is_first, warn

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Seam:
    """A wrapped name of a library, and the data that are not recorded without it.

    Attributes:
        class_name: Class in the module; empty for a function of the module's own.
        lost: What is not recorded without it; the subject of the warning.
    """

    module: str
    class_name: str
    name: str
    wrap: Wrap
    lost: str


class Seams:
    """The seams of one library.

    Args:
        library: Name of the library and its supported versions.
        is_newer: Older supported versions have none of them. Where the first is missing, nothing is wrapped or logged.
    """

    def __init__(self, library: str, seams: Sequence[Seam], *, is_newer: bool = False) -> None:
        self._library = library
        self._seams = seams
        self._is_newer = is_newer
        self._claimants: WeakSet[object] = WeakSet()
        self._installed: dict[Seam, tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self._lock = ForkLock()

    def install(self, claimant: object) -> tuple[Seam, ...]:
        """Wraps the seams at least until the claimant calls ``release`` or is collected. Idempotent.

        Wrappers of collected claimants are inactive; the next ``release`` removes them.

        Returns:
            The seams that this version of the library lacks. Each is logged once as a warning.
        """
        first = self._seams[0]
        if self._is_newer and not _has(_target(first), first.name):
            return ()
        with self._lock:
            self._claimants.add(claimant)
            return tuple(seam for seam in self._seams if seam not in self._installed and not self._wrap(seam))

    def release(self, claimant: object) -> None:
        """Restores the library when no other claimant is left."""
        with self._lock:
            self._claimants.discard(claimant)
            if self._claimants:
                return
            for seam, (original, wrapper) in list(self._installed.items()):
                target = _target(seam)
                # Restoring the original would also remove another library's wrapper; an inactive wrapper below it costs
                # little.
                if getattr(target, seam.name, None) is wrapper:
                    setattr(target, seam.name, original)
                    del self._installed[seam]

    def _wrap(self, seam: Seam) -> bool:
        target = _target(seam)
        if not _has(target, seam.name):
            self._report_missing(seam)
            return False
        # Read from the class as a caller does: another library's wrapper may depend on the access (wrapt does).
        original = getattr(target, seam.name)
        wrapper = wrapped(original, seam.wrap)
        setattr(target, seam.name, wrapper)
        self._installed[seam] = (original, wrapper)
        return True

    def _report_missing(self, seam: Seam) -> None:
        name = ".".join(part for part in (seam.module, seam.class_name, seam.name) if part)
        if is_first(name, seam.lost):
            warn(
                "instrumentation.missing",
                "%s not found; %s will not be recorded. Supported: %s. Please report this version.",
                name,
                seam.lost,
                self._library,
            )


def wrapped(original: Callable[..., Any], wrap: Wrap) -> Callable[..., Any]:
    """The wrapper of a function, as the same kind of callable as the function itself.

    Frameworks use ``inspect`` to decide how to call a callable: LangGraph runs an async generator function as a
    node, and fails on a plain function that returns an async generator. A generator's wrapper must be a plain function
    nevertheless, because the caller's context is known at the call alone. ``inspect`` reads the kind from the flags
    of the code object; CPython from 3.11 on executes its instructions whatever the flags, so that they can be set.
    """
    wrapper = wrap(original)
    if inspect.iscoroutinefunction(wrapper) and not inspect.iscoroutinefunction(original):
        wrapper = _returning_awaitable(original, wrapper)
    if (flag := _kind(original) & ~_kind(wrapper)) and isinstance(wrapper, FunctionType):
        code = wrapper.__code__.replace(co_flags=wrapper.__code__.co_flags | flag)
        flagged = FunctionType(code, wrapper.__globals__, closure=wrapper.__closure__)
        wrapper = functools.update_wrapper(flagged, original)
    if isinstance(wrapper, FunctionType) and not hasattr(original, "__wrapped__"):
        # For ``inspect.getfullargspec``, which does not look at ``__wrapped__``.
        wrapper.__signature__ = inspect.signature(original)
    return wrapper


def _returning_awaitable(original: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return wrapper(*args, **kwargs)

    return plain


def _kind(function: Callable[..., Any]) -> int:
    if inspect.isgeneratorfunction(function):
        return inspect.CO_GENERATOR
    if inspect.isasyncgenfunction(function):
        return inspect.CO_ASYNC_GENERATOR
    return inspect.CO_COROUTINE if inspect.iscoroutinefunction(function) else 0


def _target(seam: Seam) -> Any:
    try:
        module = importlib.import_module(seam.module)
    except ImportError:
        return None
    return getattr(module, seam.class_name, None) if seam.class_name else module


def _has(target: Any, name: str) -> bool:
    """Whether the module, or the class or a base of it, has the name; each class has a metaclass's ``__call__``."""
    return target is not None and any(name in vars(place) for place in getattr(target, "__mro__", (target,)))
