"""Graphs whose topology was set on a recorded span of this process; it is set once a day and not in each run."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Final

AGAIN_AFTER_S: Final = 24 * 3600.0
"""Maximum time between a stored run and the topology of its graph."""
MAX_GRAPHS: Final = 1024
"""Maximum number of registered graphs; the topology of the oldest ones is then set again."""

_announced: OrderedDict[str, float] = OrderedDict()


def is_due(graph_hash: str) -> bool:
    """Whether a recorded span needs the graph's topology; the caller then sets it."""
    now = time.monotonic()
    if now - _announced.get(graph_hash, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
        return False
    _announced[graph_hash] = now
    _announced.move_to_end(graph_hash)
    while len(_announced) > MAX_GRAPHS:
        _announced.popitem(last=False)
    return True


def forget() -> None:
    """Clears all graphs when the destination of spans changes: each topology is set again."""
    _announced.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
