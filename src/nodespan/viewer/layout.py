"""The layout of a declared graph: nodes and edges in layers, from the top to the bottom.

The method of Sugiyama, Tagawa and Toda (1981): edges that close a cycle are turned, nodes get the layer of their
longest path from the start, edges that pass layers get a bend in each, layers are ordered by the mean of their
neighbours, and x follows the neighbours as far as the order and the gaps allow. The same graph always gets the same
drawing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

START: Final = "__start__"
END: Final = "__end__"
NODE_HEIGHT: Final = 40.0
LAYER_GAP: Final = 56.0
NODE_GAP: Final = 32.0
_MARGIN: Final = 24.0
_CHARACTER: Final = 8.0
_PADDING: Final = 32.0
_WIDTHS: Final = (120.0, 280.0)
_BEND_WIDTH: Final = 12.0
_LOOP: Final = 28.0
"""Width of an edge from a node to itself, or to any node, at the right of the node."""
_SWEEPS: Final = 12
_PATIENCE: Final = 4
"""Sweeps without an improvement after which the order is kept."""
_BENDS_MAX: Final = 4_000
"""Above this number long edges are straight: such a drawing is not readable anyway, and bends would take seconds."""


@dataclass(slots=True, eq=False)
class _Place:
    """A node, or the bend of an edge."""

    id: str
    width: float
    is_node: bool = True
    layer: int = 0
    order: int = 0
    x: float = 0.0
    above: list[_Place] = field(default_factory=list)
    below: list[_Place] = field(default_factory=list)


@dataclass(slots=True)
class _Edge:
    """An edge, and its bends from the source to the target."""

    source: str
    target: str
    kind: str
    is_turned: bool = False
    bends: list[_Place] = field(default_factory=list)


def lay_out(topology: dict[str, Any]) -> dict[str, Any]:
    """Places a declared graph.

    Args:
        topology: A graph as ``langgraph.graph.topology`` has it.

    Returns:
        ``width``, ``height``; ``nodes`` with ``id``, ``x``, ``y`` (upper left corner), ``w``, ``h``; ``edges`` with
        ``source``, ``target``, ``kind`` and ``points``. The edge of a branch without declared ends has the kind
        ``any``, an empty target and is short.
    """
    edges = _edges(topology)
    places = _places(topology, edges)
    _turn_cycles(places, edges)
    _set_layers(places, edges, _loose_ends(topology, places, edges))
    layers = _layers(places, edges)
    _order(layers)
    _set_x(layers)
    return _drawing(places, layers, edges)


def _edges(topology: dict[str, Any]) -> list[_Edge]:
    found: dict[tuple[str, str, str], _Edge] = {}

    def add(source: str, target: str, kind: str) -> None:
        found.setdefault((source, target, kind), _Edge(source, target, kind))

    for source, target in topology.get("edges") or ():
        add(source, target, "edge")
    for sources, target in topology.get("joins") or ():
        for source in sources:
            add(source, target, "join")
    for branch in topology.get("branches") or ():
        if branch["ends"] is None:
            add(branch["source"], "", "any")
        for target in branch["ends"] or ():
            add(branch["source"], target, "branch")
    return list(found.values())


def _places(topology: dict[str, Any], edges: Iterable[_Edge]) -> dict[str, _Place]:
    ids = [node["id"] for node in topology.get("nodes") or ()]
    ids += [one for edge in edges for one in (edge.source, edge.target) if one]  # of a graph that was cut
    middle = [one for one in dict.fromkeys(ids) if one not in (START, END)]
    ordered = [*([START] if START in ids else []), *middle, *([END] if END in ids else [])]
    standing_out = {edge.source for edge in edges if edge.target in ("", edge.source)}
    return {one: _Place(one, _width(one) + (_LOOP if one in standing_out else 0.0)) for one in ordered}


def _width(name: str) -> float:
    shown = name.strip("_") if name in (START, END) else name
    return min(max(_CHARACTER * len(shown) + _PADDING, _WIDTHS[0]), _WIDTHS[1])


def _turn_cycles(places: Iterable[str], edges: Iterable[_Edge]) -> None:
    """Turns the edges that lead back to a node on the path to them."""
    leaving: dict[str, list[_Edge]] = {}
    for edge in edges:
        if edge.target and edge.target != edge.source:
            leaving.setdefault(edge.source, []).append(edge)
    done: set[str] = set()
    for root in places:
        path = {root: iter(leaving.get(root, ()))} if root not in done else {}
        while path:
            node = next(reversed(path))
            edge = next(path[node], None)
            if edge is None:
                done.add(node)
                del path[node]
            elif edge.target in path:
                edge.is_turned = True
            elif edge.target not in done:
                path[edge.target] = iter(leaving.get(edge.target, ()))


def _loose_ends(topology: dict[str, Any], places: Iterable[str], edges: Iterable[_Edge]) -> list[tuple[str, str]]:
    """Edges from branches without declared ends to nodes without other incoming edges, which are drawn below them."""
    reached = {edge.target for edge in edges} | {START}
    sources = [branch["source"] for branch in topology.get("branches") or () if branch["ends"] is None]
    return [(sources[0], one) for one in places if one not in reached and one != sources[0]] if sources else []


def _set_layers(places: dict[str, _Place], edges: Iterable[_Edge], loose: Iterable[tuple[str, str]]) -> None:
    below: dict[str, list[str]] = {one: [] for one in places}
    waiting = dict.fromkeys(places, 0)
    pairs = [(edge.target, edge.source) if edge.is_turned else (edge.source, edge.target) for edge in edges]
    for source, target in [*pairs, *loose]:
        if target and source != target:
            below[source].append(target)
            waiting[target] += 1
    ready = [one for one in places if not waiting[one]]
    for one in ready:  # grows
        if one != START and START in places:
            places[one].layer = max(places[one].layer, 1)
        for target in below[one]:
            places[target].layer = max(places[target].layer, places[one].layer + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if END in places:
        places[END].layer = max(place.layer for place in places.values())
        if any(place.layer == places[END].layer for one, place in places.items() if one != END):
            places[END].layer += 1


def _layers(places: dict[str, _Place], edges: Sequence[_Edge]) -> list[list[_Place]]:
    layers: list[list[_Place]] = [[] for _ in range(max((p.layer for p in places.values()), default=-1) + 1)]
    for place in places.values():
        layers[place.layer].append(place)
    drawn = [edge for edge in edges if edge.target and edge.source != edge.target]
    spans = sum(abs(places[edge.source].layer - places[edge.target].layer) for edge in drawn)
    for edge in drawn:
        upper, lower = places[edge.source], places[edge.target]
        if upper.layer > lower.layer:
            upper, lower = lower, upper
        chain = [upper]
        if spans <= _BENDS_MAX:
            for layer in range(upper.layer + 1, lower.layer):
                bend = _Place("", _BEND_WIDTH, is_node=False, layer=layer)
                layers[layer].append(bend)
                chain.append(bend)
        chain.append(lower)
        for one, other in pairwise(chain):
            one.below.append(other)
            other.above.append(one)
        edge.bends = chain[1:-1] if upper is places[edge.source] else chain[-2:0:-1]
    return layers


def _order(layers: list[list[_Place]]) -> None:
    """Orders each layer by the mean place of its neighbours, down and up, and keeps the order with fewest crossings."""
    _number(layers)
    best = [list(layer) for layer in layers]
    fewest = _crossings(layers)
    improved = 0
    for sweep in range(_SWEEPS):
        if not fewest or sweep - improved >= _PATIENCE:
            break
        is_down = sweep % 2 == 0
        for layer in layers[1:] if is_down else layers[-2::-1]:
            layer.sort(key=_mean_above if is_down else _mean_below)
            _number([layer])
        crossings = _crossings(layers)
        if crossings < fewest:
            fewest, best, improved = crossings, [list(layer) for layer in layers], sweep
    for layer, kept in zip(layers, best, strict=True):
        layer[:] = kept
    _number(layers)


def _number(layers: Iterable[Sequence[_Place]]) -> None:
    for layer in layers:
        for order, place in enumerate(layer):
            place.order = order


def _mean_above(place: _Place) -> float:
    orders = [one.order for one in place.above]
    return sum(orders) / len(orders) if orders else place.order


def _mean_below(place: _Place) -> float:
    orders = [one.order for one in place.below]
    return sum(orders) / len(orders) if orders else place.order


def _crossings(layers: Iterable[Sequence[_Place]]) -> int:
    """Number of crossings: of inversions, counted with a tree of sums (Barth, Jünger and Mutzel 2002)."""
    found = 0
    for layer in layers:
        ends = [order for place in layer for order in sorted(one.order for one in place.below)]
        sums = [0] * (max(ends, default=0) + 2)
        for seen, end in enumerate(ends):
            i, not_greater = end + 1, 0
            while i:
                not_greater += sums[i]
                i &= i - 1
            found += seen - not_greater
            i = end + 1
            while i < len(sums):
                sums[i] += 1
                i += i & -i
    return found


def _set_x(layers: Sequence[Sequence[_Place]]) -> None:
    """Moves the centres of each layer to those of the neighbours, as near as order and gaps allow."""
    offsets = [_offsets(layer) for layer in layers]
    for layer, at in zip(layers, offsets, strict=True):
        _spread(layer, at, [0.0] * len(layer))
    together = list(zip(layers, offsets, strict=True))
    for sweep in range(_SWEEPS):
        for layer, at in together if sweep % 2 == 0 else together[::-1]:
            _spread(layer, at, [_wanted(place) for place in layer])


def _offsets(layer: Sequence[_Place]) -> list[float]:
    """How far right of the first centre each one is at least."""
    offsets: list[float] = []
    for i, place in enumerate(layer):
        before = layer[i - 1] if i else place
        gap = NODE_GAP if place.is_node or before.is_node else _BEND_WIDTH
        offsets.append(offsets[-1] + (before.width + place.width) / 2 + gap if i else 0.0)
    return offsets


def _wanted(place: _Place) -> float:
    xs = [one.x for one in place.above] + [one.x for one in place.below]
    return sum(xs) / len(xs) if xs else place.x


def _spread(layer: Sequence[_Place], offsets: Sequence[float], targets: Sequence[float]) -> None:
    """The least movement that keeps the gaps: isotonic regression, by pooling neighbours that are too near."""
    pools: list[tuple[float, int]] = []
    for offset, target in zip(offsets, targets, strict=True):
        mean, count = target - offset, 1
        while pools and pools[-1][0] >= mean:
            other, others = pools.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        pools.append((mean, count))
    shifts = [mean for mean, count in pools for _ in range(count)]
    for place, offset, shift in zip(layer, offsets, shifts, strict=True):
        place.x = offset + shift


def _drawing(places: dict[str, _Place], layers: Sequence[Sequence[_Place]], edges: Iterable[_Edge]) -> dict[str, Any]:
    left = min((place.x - place.width / 2 for layer in layers for place in layer), default=0.0) - _MARGIN
    right = max((place.x + place.width / 2 for layer in layers for place in layer), default=0.0) + _MARGIN
    for layer in layers:
        for place in layer:
            place.x -= left
    loose = {edge.source for edge in edges if edge.target in ("", edge.source)}
    height = 2 * _MARGIN + len(layers) * (NODE_HEIGHT + LAYER_GAP) - (LAYER_GAP if layers else 0.0)
    return {
        "width": round(right - left, 1),
        "height": round(height, 1),
        "nodes": [
            {
                "id": one,
                "x": round(place.x - place.width / 2, 1),
                "y": round(_top(place), 1),
                "w": round(place.width - (_LOOP if one in loose else 0.0), 1),
                "h": NODE_HEIGHT,
            }
            for one, place in places.items()
        ],
        "edges": [
            {
                "source": edge.source,
                "target": edge.target,
                "kind": edge.kind,
                "points": [[round(x, 1), round(y, 1)] for x, y in _points(places, edge)],
            }
            for edge in edges
        ],
    }


def _points(places: dict[str, _Place], edge: _Edge) -> list[tuple[float, float]]:
    source = places[edge.source]
    top = _top(source)
    if edge.target in ("", edge.source):
        right = source.x + source.width / 2 - _LOOP
        line = [(right, top + NODE_HEIGHT * 0.3), (right + _LOOP * 0.8, top + NODE_HEIGHT * 0.5)]
        return line if not edge.target else [*line, (right, top + NODE_HEIGHT * 0.7)]
    target = places[edge.target]
    is_up = source.layer > target.layer
    aside = _WIDTHS[0] / 4 if is_up else 0.0  # or it would lie on the edge in the other direction
    points = [(source.x + aside, top if is_up else top + NODE_HEIGHT)]
    for bend in edge.bends:
        ends = [(bend.x, _top(bend)), (bend.x, _top(bend) + NODE_HEIGHT)]
        points += reversed(ends) if is_up else ends
    points.append((target.x + aside, _top(target) + NODE_HEIGHT if is_up else _top(target)))
    return points


def _top(place: _Place) -> float:
    return _MARGIN + place.layer * (NODE_HEIGHT + LAYER_GAP)
