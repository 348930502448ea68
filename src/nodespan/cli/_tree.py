"""A trace as a tree: duration of each span, and for model calls tokens and speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text
from rich.tree import Tree

from nodespan import semconv
from nodespan.cli._details import details
from nodespan.cli._output import safe
from nodespan.cli._words import STYLES, lost_text, phase_text, state_text
from nodespan.engine.prefix import LEAST_REPEATED_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nodespan.store.records import SpanRecord

_MS_PER_NS = 1e-6
_GUIDE_WIDTH = 4


def render_tree(spans: Sequence[SpanRecord], width: int, *, verbose: bool = False) -> list[Tree]:
    """One tree per span whose parent is not among the spans (of another process, or lost).

    Facts that do not fit beside a span's name, in lines of the given width, are printed below it; with ``verbose`` all
    data of a span.
    """
    known = {span["span_id"] for span in spans}
    children: dict[str, list[SpanRecord]] = {}
    for span in sorted(spans, key=lambda span: span["start_ns"]):
        parent = span["parent_span_id"] if span["parent_span_id"] in known else ""
        children.setdefault(parent, []).append(span)
    trees: list[Tree] = []
    left = [(span, trees.append, width) for span in reversed(children.get("", []))]
    while left:
        span, attach, room = left.pop()
        label = _label(span, room)
        if verbose:
            label.append_text(details(span))
        tree = Tree(label)
        attach(tree)
        below = children.pop(span["span_id"], [])
        left += [(child, tree.children.append, room - _GUIDE_WIDTH) for child in reversed(below)]
    return trees


def _label(span: SpanRecord, width: int) -> Text:
    label = Text.assemble((safe(span["name"]), "bold"), (f"  {duration(span['duration_s'] * 1e9)}", "cyan"))
    attributes = span["attributes"]
    status = attributes.get(semconv.STATUS)
    if span["state"] != "ended":
        label.append(f"  {_open_text(span)}", style=STYLES[span["state"]])
    elif span["status_code"] == "ERROR":
        label.append(f"  {safe(str(attributes.get(semconv.ERROR_TYPE, 'error')))}", style="bold red")
    elif status not in (None, "ok"):
        label.append(f"  {safe(str(status))}", style="yellow")
    if beside := safe("  ".join(facts(attributes))):
        fits = label.cell_len + 2 + len(beside) <= width
        label.append(("  " if fits else "\n") + beside, style="dim")
    if (repeated := repeated_prefill(attributes)) is not None:
        label.append(f"\n{safe(repeated)}", style="yellow")
    return label


def _open_text(span: SpanRecord) -> str:
    if span["state"] == "lost":
        return lost_text(span["process"], span["phase"])
    return "  ".join(filter(None, (state_text(span["state"], span["process"]), phase_text(span["phase"]))))


def facts(attributes: Mapping[str, Any]) -> Iterable[str]:
    """The facts beside the duration; for model calls tokens, speed and waiting time."""
    if semconv.USAGE_INPUT_TOKENS in attributes:
        yield f"in {attributes[semconv.USAGE_INPUT_TOKENS]}"
        yield f"cached {attributes.get(semconv.USAGE_CACHE_READ, 0)}"
        yield f"out {attributes.get(semconv.USAGE_OUTPUT_TOKENS, 0)}"
        if (speed := _number(attributes, "tokens_per_s")) is not None:
            yield f"{speed:.1f} tokens/s"
        if (first_s := _number(attributes, "time_to_first_token_s")) is not None:
            yield f"first token {duration(first_s * 1e9)}"
        if (queue_s := _number(attributes, "queue_s")) is not None:
            yield f"queue {duration(queue_s * 1e9)}"
    elif semconv.EVALUATED_TOKENS in attributes:
        yield f"{attributes[semconv.EVALUATED_TOKENS]} tokens"
    if attributes.get(semconv.OPERATION_NAME) == semconv.INVOKE_NODE and semconv.NODE_ID in attributes:
        yield f"id {attributes[semconv.NODE_ID]}"


def repeated_prefill(attributes: Mapping[str, Any]) -> str | None:
    """Why a prompt was evaluated again; ``None`` where it was not.

    For a model in this process the previous call is known; for a server only the number of cached tokens and the
    prefill time.
    """
    prompt, cached = attributes.get(semconv.USAGE_INPUT_TOKENS), attributes.get(semconv.USAGE_CACHE_READ)
    if not isinstance(prompt, int) or not isinstance(cached, int) or prompt - cached < LEAST_REPEATED_TOKENS:
        return None
    what = f"prefilled {prompt - cached:,} of {prompt:,} tokens"
    shared, repeated = attributes.get(semconv.PREFIX_SHARED), attributes.get(semconv.PREFIX_REPEATED)
    if isinstance(shared, int) and isinstance(repeated, int) and repeated >= LEAST_REPEATED_TOKENS:
        node = attributes.get(semconv.PREFIX_PREVIOUS_NODE)
        whose = f"node {node}'s prompt" if node else "the prompt before"
        cost_s = attributes.get(semconv.PREFIX_COST)
        cost = f", cost {duration(cost_s * 1e9)}" if isinstance(cost_s, int | float) else ""
        return f"{what} again: differs from {whose} at token {shared:,}{cost}"
    seconds = _number(attributes, "prompt_eval_s")
    if cached and semconv.SERVER_ADDRESS in attributes and seconds is not None:
        return f"{what}: the server had {cached:,} in its cache, cost {duration(seconds * 1e9)}"
    return None


def _number(attributes: Mapping[str, Any], key: str) -> float | None:
    """A number of a model call; ``None`` if another program has written another type."""
    value = attributes.get(semconv.MIRROR_KEYS[key])
    return value if isinstance(value, int | float) else None


def duration(ns: float) -> str:
    """A duration as text: ``0.8 ms``, ``812 ms``, ``2.4 s``, ``3 min 20 s``."""
    ms = ns * _MS_PER_NS
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"
