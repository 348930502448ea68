"""A run as a conversation: prompts, answers and tool calls, each message once, by time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from nodespan import semconv
from nodespan.viewer.columns import INTERRUPTED, View, new_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nodespan.store import StoreReader

    Message = tuple[str, str, str]
    """Kind, text and name of a message."""

MODEL_CONTENT: Final = (semconv.SYSTEM_INSTRUCTIONS, semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES)
TOOL_CONTENT: Final = (semconv.TOOL_CALL_ARGUMENTS, semconv.TOOL_CALL_RESULT)
RUN_CONTENT: Final = (semconv.LANGGRAPH_INTERRUPTS, semconv.LANGGRAPH_RESUME)
_CONTENT: Final = (*MODEL_CONTENT, *TOOL_CONTENT, *RUN_CONTENT)
_KINDS: Final = {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool_result"}


def messages(reader: StoreReader, trace_id: str) -> dict[str, Any]:
    """The messages of a run, from captured content.

    A model is given the whole conversation with each call: a message that an earlier call had is not repeated.

    Raises:
        StoreError: There is no such trace, or the store cannot be read.
    """
    columns = new_columns((*_CONTENT, semconv.TOOL_NAME))
    content = reader.fill_columns(trace_id, columns)
    view = View(columns, content["spans"])
    t0_ns = columns.starts_ns[view.order[0]] if view.order else 0
    flags = view.flags()
    runs = set(view.runs())
    questions = _questions(view, (place for place in runs if flags[place] & INTERRUPTED))
    timed: list[tuple[int, int, Message]] = []
    captured = 0
    for place, row in enumerate(view.order):
        found = columns.others.get(row, {})
        captured += any(key in found for key in _CONTENT)
        start_ns, end_ns = columns.starts_ns[row], columns.ends_ns[row]
        timed += [(start_ns, place, message) for message in _inputs(found)]
        timed += [(end_ns, place, message) for message in _outputs(found)]
        if place in runs:
            name = columns.strings[columns.names[row]]
            answer = found.get(semconv.LANGGRAPH_RESUME)
            if row in columns.resumed or answer is not None:
                timed.append((start_ns, place, ("resume", _text(_parsed(answer)), name)))
            if place in questions:
                timed += [(end_ns, place, ("interrupt", text, name)) for text in questions[place]]
    timed.sort(key=lambda item: item[0])  # stable: the messages of a call stay in order
    return {
        "items": [
            {
                "row": place,
                "span_id": columns.ids[view.order[place]],
                "kind": message[0],
                "text": message[1],
                "name": message[2],
                "time_us": (at_ns - t0_ns) / 1e3,
            }
            for at_ns, place, message in _new(timed)
        ],
        "is_captured": captured > 0,
    }


def _new(timed: Iterable[tuple[int, int, Message]]) -> Iterator[tuple[int, int, Message]]:
    """Leaves out a message as often as it was there before the span that repeats it."""
    before: Counter[Message] = Counter()
    of_span: dict[int, Counter[Message]] = {}
    for item in timed:
        _, place, message = item
        own = of_span.setdefault(place, Counter())
        own[message] += 1
        if own[message] > before[message] or message[0] in ("interrupt", "resume"):
            before[message] += 1
            yield item


def _questions(view: View, places: Iterable[int]) -> dict[int, list[str]]:
    """Values of interrupts, by the innermost run that they stop; enclosing runs stop as well and do not repeat them."""
    columns = view.columns
    asked: dict[int, list[str]] = {}
    for place in places:
        values = _list(columns.others.get(view.order[place], {}).get(semconv.LANGGRAPH_INTERRUPTS))
        asked[place] = [_text(value) for value in values] or [""]
    inside: dict[int, set[str]] = {}
    for place, texts in asked.items():
        around, visited = place, {place}
        while (parent := view.rows.get(columns.parents[view.order[around]])) is not None and parent not in visited:
            around = parent
            visited.add(around)
            inside.setdefault(around, set()).update(texts)
    return {place: [text for text in texts if text not in inside.get(place, ())] for place, texts in asked.items()}


def _inputs(found: dict[str, Any]) -> Iterator[Message]:
    for part in _list(found.get(semconv.SYSTEM_INSTRUCTIONS)):
        yield from _part("system", part)
    for message in _list(found.get(semconv.INPUT_MESSAGES)):
        yield from _message(message)
    if (arguments := found.get(semconv.TOOL_CALL_ARGUMENTS)) is not None:
        yield "tool_call", _text(_parsed(arguments)), str(found.get(semconv.TOOL_NAME, ""))


def _outputs(found: dict[str, Any]) -> Iterator[Message]:
    for message in _list(found.get(semconv.OUTPUT_MESSAGES)):
        yield from _message(message)
    if (result := found.get(semconv.TOOL_CALL_RESULT)) is not None:
        yield "tool_result", _text(_parsed(result)), ""


def _message(message: Any) -> Iterator[Message]:
    if isinstance(message, dict):
        given = cast("dict[str, Any]", message)
        for part in _list(given.get("parts")):
            yield from _part(str(given.get("role", "")), part)


def _part(role: str, part: Any) -> Iterator[Message]:
    if not isinstance(part, dict):
        return
    given = cast("dict[str, Any]", part)
    kind = given.get("type")
    if kind == "tool_call":
        yield "tool_call", _text(given.get("arguments")), str(given.get("name") or "")
    elif kind == "tool_call_response":
        yield "tool_result", _text(given.get("response", given.get("result"))), ""
    elif text := _text(given.get("content", given)):
        yield _KINDS.get(role, "user"), text, "" if kind == "text" else str(kind or "")


def _list(value: Any) -> list[Any]:
    """A list, given as JSON text, as nodespan writes it, or as a list."""
    found = _parsed(value)
    return cast("list[Any]", found) if isinstance(found, list) else []


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str).decode()
