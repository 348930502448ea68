"""Declared graphs with their drawings."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import orjson

from nodespan.errors import StoreError
from nodespan.viewer.layout import lay_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodespan.store import StoreReader
    from nodespan.store.records import GraphRecord

    Drawn = dict[str, Any]
    """``hash``, ``topology`` and ``layout``."""


def drawn(graphs: Mapping[str, GraphRecord]) -> dict[str, Drawn]:
    """Graphs and their subgraphs by hash. A graph of another form, written by another program, is left out."""
    found: dict[str, Drawn] = {}
    for graph_hash, record in graphs.items():
        found |= _drawn(graph_hash, orjson.dumps(record["topology"]))
    return found


def drawn_by_hash(reader: StoreReader, hashes: Iterable[str]) -> dict[str, Drawn]:
    """The graphs with these hashes, as far as they are stored."""
    records: dict[str, GraphRecord] = {}
    for graph_hash in hashes:
        try:
            records[graph_hash] = reader.get_graph(graph_hash)
        except StoreError:  # its process has announced it earlier, to another store for example
            continue
    return drawn(records)


@lru_cache(maxsize=64)
def _drawn(graph_hash: str, topology: bytes) -> dict[str, Drawn]:
    whole = orjson.loads(topology)
    try:
        subgraphs: dict[str, Any] = whole.get("subgraphs") or {}
        parts = {graph_hash: whole, **subgraphs}
        return {key: {"hash": key, "topology": _checked(part), "layout": lay_out(part)} for key, part in parts.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _checked(topology: Any) -> dict[str, Any]:
    """The topology, whose nodes are named by texts.

    Raises:
        TypeError: A value has another type.
    """
    found = cast("dict[str, Any]", topology)
    nodes = [node["id"] for node in found["nodes"]]
    ends = [end for branch in found["branches"] for end in (branch["source"], *(branch["ends"] or ()))]
    pairs = [one for edge in found["edges"] for one in edge]
    joins = [one for sources, target in found["joins"] for one in (*sources, target)]
    if not all(isinstance(one, str) for one in (*nodes, *ends, *pairs, *joins)):
        raise TypeError("a node is not named by a text")
    return found
