"""All data of a span, in lines below its name: attributes, messages, events, links."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from rich.text import Text

from nodespan import semconv
from nodespan.cli._output import safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nodespan.store.records import SpanRecord

_MESSAGES: Final = {
    semconv.SYSTEM_INSTRUCTIONS: "instructions",
    semconv.INPUT_MESSAGES: "input",
    semconv.OUTPUT_MESSAGES: "output",
}
_LONGEST: Final = 2000
"""Characters of one value; ``--json`` has all of them."""
_INDENT: Final = "  "


def details(span: SpanRecord) -> Text:
    """The lines, each after a line break."""
    text = Text()
    if span["status_message"]:
        _add(text, "status", span["status_message"])
    for key, value in sorted(span["attributes"].items()):
        if key not in _MESSAGES:
            _add(text, key, value)
    for key, name in _MESSAGES.items():
        for role, content in _messages(span["attributes"].get(key)):
            _add(text, f"{name} {role}".strip(), content, style="green")
    for event in span["events"]:
        after_ms = (event["time_ns"] - span["start_ns"]) / 1e6
        text.append(f"\n{_INDENT}event {safe(event['name'])} after {after_ms:.1f} ms", "yellow")
        for key, value in sorted(event["attributes"].items()):
            _add(text, key, value, depth=2)
    for link in span["links"]:
        text.append(f"\n{_INDENT}link to span {link['span_id']} of trace {link['trace_id']}", "yellow")
        for key, value in sorted(link["attributes"].items()):
            _add(text, key, value, depth=2)
    return text


def _add(text: Text, key: str, value: object, *, depth: int = 1, style: str = "") -> None:
    text.append(f"\n{_INDENT * depth}{safe(key)}: ", "dim")
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(shown) > _LONGEST:
        shown = f"{shown[:_LONGEST]}... ({len(shown)} characters)"
    lines = shown.split("\n")
    if len(lines) == 1:
        text.append(safe(shown), style)
        return
    for line in lines:
        text.append(f"\n{_INDENT * (depth + 1)}{safe(line)}", style)


def _messages(value: object) -> Iterator[tuple[str, object]]:
    """Role and content of each part of captured messages; a text of another form unchanged."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = value
    if not isinstance(found, list):
        if found is not None:
            yield "", found
        return
    for one in cast("list[object]", found):
        if not isinstance(one, dict):
            yield "", one
            continue
        message = cast("Mapping[str, Any]", one)
        parts: Sequence[Any] = message.get("parts") or [message]
        for part in parts:
            yield str(message.get("role", "")), _content(part)


def _content(part: object) -> object:
    if not isinstance(part, dict):
        return part
    held = cast("Mapping[str, object]", part)
    content = held.get("content")
    return content if isinstance(content, str) else {key: value for key, value in held.items() if value is not None}
