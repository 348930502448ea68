"""Graphs whose topology a recorded span of this process carries: it is sent once a day and not with each run."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Final

AGAIN_AFTER_S: Final = 24 * 3600.0
"""A reader can rely on it: a stored run and the topology of its graph are at most this far apart."""
MAX_GRAPHS: Final = 1024
"""Graphs that are remembered; a program that makes graphs without end sends the topology of the oldest ones again."""

_announced: OrderedDict[str, float] = OrderedDict()


def is_due(graph_hash: str) -> bool:
    """Whether a recorded span is to carry the graph's topology; the caller then puts it there."""
    now = time.monotonic()
    if now - _announced.get(graph_hash, -AGAIN_AFTER_S) < AGAIN_AFTER_S:
        return False
    _announced[graph_hash] = now
    _announced.move_to_end(graph_hash)
    while len(_announced) > MAX_GRAPHS:
        _announced.popitem(last=False)
    return True


def forget() -> None:
    """Has each graph announced anew: spans go elsewhere from now on."""
    _announced.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
