"""Puts the wrappers in and takes them out again, and says loudly when LangGraph has no such seam."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

from nodespan.instrumentation.langgraph import _patch

_logger = logging.getLogger("nodespan")

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class _Seam:
    """One name of LangGraph's that is wrapped, and what is lost without it."""

    module: str
    owner: str
    name: str
    wrap: Wrap
    lost: str


_RUNNER: Final = "langgraph.pregel._runner"
_RETRY: Final = "langgraph.pregel._retry"

_SEAMS: Final = (
    _Seam("langgraph.pregel", "Pregel", "stream", _patch.stream, "invoke_workflow spans of sync runs"),
    _Seam("langgraph.pregel", "Pregel", "astream", _patch.astream, "invoke_workflow spans of async runs"),
    _Seam(_RUNNER, "", "run_with_retry", _patch.run_with_retry, "invoke_node spans of sync runs"),
    _Seam(_RUNNER, "", "arun_with_retry", _patch.arun_with_retry, "invoke_node spans of async runs"),
    _Seam(_RETRY, "", "_should_retry_on", _patch.should_retry_on, "events of failed attempts"),
    _Seam(_RETRY, "", "patch_configurable", _patch.patch_configurable, "durations of attempts after the first"),
    _Seam(
        "langgraph.pregel._loop",
        "PregelLoop",
        "_suppress_interrupt",
        _patch.suppress_interrupt,
        "the mark of an interrupt on the run's span",
    ),
)

_claimants: WeakSet[object] = WeakSet()
_installed: dict[_Seam, tuple[Callable[..., Any], Callable[..., Any]]] = {}
_said: set[_Seam] = set()


def install(claimant: object) -> None:
    """Wraps LangGraph's seams for as long as the claimant lives and does not ``release`` them. Idempotent."""
    _claimants.add(claimant)
    for seam in _SEAMS:
        if seam not in _installed:
            _wrap(seam)


def release(claimant: object) -> None:
    """Restores LangGraph as it was, when nobody else claims the seams."""
    _claimants.discard(claimant)
    if _claimants:
        return
    for seam, (original, wrapper) in list(_installed.items()):
        target = _target(seam)
        # Somebody who wrapped our wrapper would be thrown out with it; an inert wrapper below theirs costs little.
        if getattr(target, seam.name, None) is wrapper:
            setattr(target, seam.name, original)
            del _installed[seam]


def _wrap(seam: _Seam) -> None:
    target = _target(seam)
    original = getattr(target, seam.name, None)
    if original is None:
        if seam not in _said:
            _said.add(seam)
            _logger.warning(
                "This version of LangGraph has no %s.%s: nodespan goes on without %s. "
                "Use a LangGraph that nodespan supports (0.6 to 1.2), or tell us of the new version.",
                seam.module,
                seam.name,
                seam.lost,
            )
        return
    wrapper = seam.wrap(original)
    setattr(target, seam.name, wrapper)
    _installed[seam] = (original, wrapper)


def _target(seam: _Seam) -> Any:
    try:
        module = importlib.import_module(seam.module)
    except ImportError:
        return None
    return getattr(module, seam.owner, None) if seam.owner else module
