"""A trace as a tree: per span what it took, and for model calls tokens and speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text
from rich.tree import Tree

from nodespan import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nodespan.otlp import SpanRecord

_MS_PER_NS = 1e-6
_GUIDE_WIDTH = 4


def render_tree(spans: Sequence[SpanRecord], width: int) -> list[Tree]:
    """One tree per span whose parent is not among the spans (of another process, or lost).

    Facts that do not fit beside a span's name, in lines of the given width, stand below it.
    """
    known = {span.span_id for span in spans}
    children: dict[str, list[SpanRecord]] = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        parent = span.parent_span_id if span.parent_span_id in known else ""
        children.setdefault(parent, []).append(span)
    trees = [Tree(_label(span, width)) for span in children.get("", [])]
    for tree, span in zip(trees, children.get("", []), strict=True):
        _grow(tree, span, children, width - _GUIDE_WIDTH)
    return trees


def _grow(tree: Tree, span: SpanRecord, children: Mapping[str, list[SpanRecord]], width: int) -> None:
    for child in children.get(span.span_id, []):
        _grow(tree.add(_label(child, width)), child, children, width - _GUIDE_WIDTH)


def _label(span: SpanRecord, width: int) -> Text:
    label = Text.assemble((span.name, "bold"), (f"  {duration(span.end_ns - span.start_ns)}", "cyan"))
    status = span.attributes.get(semconv.STATUS)
    if span.status_code == "ERROR":
        label.append(f"  {span.attributes.get(semconv.ERROR_TYPE, 'error')}", style="bold red")
    elif status not in (None, "ok"):
        label.append(f"  {status}", style="yellow")
    if beside := "  ".join(facts(span.attributes)):
        fits = label.cell_len + 2 + len(beside) <= width
        label.append(("  " if fits else "\n") + beside, style="dim")
    return label


def facts(attributes: Mapping[str, Any]) -> Iterable[str]:
    """What a reader wants to see beside the duration, in words; for model calls tokens, speed and waiting."""
    if semconv.USAGE_INPUT_TOKENS in attributes:
        yield f"in {attributes[semconv.USAGE_INPUT_TOKENS]}"
        yield f"cached {attributes.get(semconv.USAGE_CACHE_READ, 0)}"
        yield f"out {attributes.get(semconv.USAGE_OUTPUT_TOKENS, 0)}"
        speed = attributes.get(semconv.MIRROR_KEYS["tokens_per_s"])
        if speed is not None:
            yield f"{speed:.1f} tokens/s"
        first = attributes.get(semconv.MIRROR_KEYS["time_to_first_token_s"])
        if first is not None:
            yield f"first token {duration(first * 1e9)}"
        queue = attributes.get(semconv.MIRROR_KEYS["queue_s"])
        if queue is not None:
            yield f"queue {duration(queue * 1e9)}"
    elif semconv.EVALUATED_TOKENS in attributes:
        yield f"{attributes[semconv.EVALUATED_TOKENS]} tokens"
    if attributes.get(semconv.OPERATION_NAME) == semconv.INVOKE_NODE and semconv.NODE_ID in attributes:
        yield f"id {attributes[semconv.NODE_ID]}"


def duration(ns: float) -> str:
    """A duration for people: ``0.8 ms``, ``812 ms``, ``2.4 s``, ``3 min 20 s``."""
    ms = ns * _MS_PER_NS
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"
