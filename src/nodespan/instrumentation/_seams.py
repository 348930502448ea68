"""Puts wrappers in and takes them out again, and says loudly when a library has no such seam."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

_logger = logging.getLogger("nodespan")

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Seam:
    """One name of a library's that is wrapped, and what is lost without it.

    Attributes:
        owner: Class in the module; empty for a function of the module's own.
        lost: Completes the sentence "nodespan goes on without ...".
    """

    module: str
    owner: str
    name: str
    wrap: Wrap
    lost: str


class Seams:
    """The seams of one library.

    Args:
        library: As people call it, with the versions that were tried.
    """

    def __init__(self, library: str, seams: Sequence[Seam]) -> None:
        self._library = library
        self._seams = seams
        self._claimants: WeakSet[object] = WeakSet()
        self._installed: dict[Seam, tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self._said: set[Seam] = set()

    def install(self, claimant: object) -> tuple[Seam, ...]:
        """Wraps the seams for as long as the claimant lives and does not ``release`` them. Idempotent.

        Returns:
            The seams that this version of the library does not have. Each is said once, as a WARNING.
        """
        self._claimants.add(claimant)
        return tuple(seam for seam in self._seams if seam not in self._installed and not self._wrap(seam))

    def release(self, claimant: object) -> None:
        """Restores the library as it was, when nobody else claims the seams."""
        self._claimants.discard(claimant)
        if self._claimants:
            return
        for seam, (original, wrapper) in list(self._installed.items()):
            target = _target(seam)
            # Somebody who wrapped our wrapper would be thrown out with it; an inert wrapper below theirs costs little.
            if getattr(target, seam.name, None) is wrapper:
                setattr(target, seam.name, original)
                del self._installed[seam]

    def _wrap(self, seam: Seam) -> bool:
        target = _target(seam)
        if not _has(target, seam.name):
            self._say_missing(seam)
            return False
        # Asked of the class as a caller does: what a peer has put there may look at how it is reached (wrapt does).
        original = getattr(target, seam.name)
        wrapper = seam.wrap(original)
        setattr(target, seam.name, wrapper)
        self._installed[seam] = (original, wrapper)
        return True

    def _say_missing(self, seam: Seam) -> None:
        if seam in self._said:
            return
        self._said.add(seam)
        name = ".".join(part for part in (seam.module, seam.owner, seam.name) if part)
        _logger.warning(
            "There is no %s here: nodespan goes on without %s. Use %s, or tell us of the new version.",
            name,
            seam.lost,
            self._library,
        )


def _target(seam: Seam) -> Any:
    try:
        module = importlib.import_module(seam.module)
    except ImportError:
        return None
    return getattr(module, seam.owner, None) if seam.owner else module


def _has(target: Any, name: str) -> bool:
    """Whether the module, or the class or a base of it, has the name; each class has a metaclass's ``__call__``."""
    return target is not None and any(name in vars(place) for place in getattr(target, "__mro__", (target,)))
