"""A trace as a tree, on terminals wide and narrow."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from nodespan import semconv
from nodespan.cli._tree import duration, render_tree


def record(span_id, parent, name, start_ms, end_ms, status="UNSET", attributes=None):
    return {
        "span_id": span_id,
        "parent_span_id": parent,
        "name": name,
        "start_ns": start_ms * 10**6,
        "duration_s": (end_ms - start_ms) / 1e3,
        "state": "ended",
        "status_code": status,
        "attributes": attributes or {},
    }


USAGE = {
    semconv.USAGE_INPUT_TOKENS: 44,
    semconv.USAGE_CACHE_READ: 24,
    semconv.USAGE_OUTPUT_TOKENS: 20,
    semconv.MIRROR_KEYS["tokens_per_s"]: 12.34,
    semconv.MIRROR_KEYS["time_to_first_token_s"]: 0.94,
    semconv.MIRROR_KEYS["queue_s"]: 0.0007,
}
SPANS = [
    record("a", "", "invoke_workflow demo", 0, 2500),
    record("b", "a", "invoke_node [odd]", 1, 1200),
    record("c", "b", "chat SmolLM2", 2, 1100, attributes=USAGE),
    record("d", "a", "invoke_node broken", 1300, 1301, "ERROR", {semconv.ERROR_TYPE: "ValueError"}),
    record("e", "a", "invoke_node left", 1302, 1303, attributes={semconv.STATUS: "cancelled"}),
    record("f", "in another process", "invoke_node lost", 1302, 63_000),
]


def shown(width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for tree in render_tree(SPANS, width):
        console.print(tree)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_facts_are_beside_the_name_if_they_fit():
    assert shown(120) == [
        "invoke_workflow demo  2.5 s",
        "├── invoke_node [odd]  1.2 s",
        "│   └── chat SmolLM2  1.1 s  in 44  cached 24  out 20  12.3 tokens/s  first token 940 ms  queue 0.7 ms",
        "├── invoke_node broken  1.0 ms  ValueError",
        "└── invoke_node left  1.0 ms  cancelled",
        "invoke_node lost  1 min 2 s",
    ]


def test_facts_are_below_the_name_if_they_do_not_fit():
    assert shown(90)[2:4] == [
        "│   └── chat SmolLM2  1.1 s",
        "│       in 44  cached 24  out 20  12.3 tokens/s  first token 940 ms  queue 0.7 ms",
    ]


@pytest.mark.parametrize(
    ("ns", "words"),
    [(0, "0.0 ms"), (9_940_000, "9.9 ms"), (812e6, "812 ms"), (2.44e9, "2.4 s"), (200e9, "3 min 20 s")],
)
def test_durations_have_readable_units(ns, words):
    assert duration(ns) == words


def test_a_chain_of_many_spans_is_shown():
    spans = [record(str(number), str(number - 1), f"step {number}", number, 9_999) for number in range(3_000)]
    (tree,) = render_tree(spans, 80)
    depth = 0
    while tree.children:
        (tree,) = tree.children
        depth += 1
    assert depth == 2_999


def test_an_attribute_of_an_unexpected_type_is_omitted():
    attributes = {**USAGE, semconv.MIRROR_KEYS["tokens_per_s"]: "fast", semconv.MIRROR_KEYS["queue_s"]: None}
    (tree,) = render_tree([record("a", "", "chat", 0, 1, attributes=attributes)], 200)
    assert tree.label.plain == "chat  1.0 ms  in 44  cached 24  out 20  first token 940 ms"


NOON = 1_800_000_000 * 10**9
CLOCK = datetime.fromtimestamp(NOON / 1e9, UTC).astimezone().strftime("%H:%M:%S")


def open_label(state, phase=None, silent_s=0.2):
    """The line of an open span, without its name and duration."""
    span = record("a", "", "chat", 0, 1000)
    process = {"id": "p", "pid": 1, "start_ns": NOON, "heartbeat_ns": NOON, "silent_s": silent_s}
    if phase is not None:
        phase = {"done": None, "total": None, "position": None, "text": "", "since_ns": NOON, "at_ns": NOON, **phase}
    (tree,) = render_tree([{**span, "state": state, "process": process, "phase": phase}], 200)
    return tree.label.plain.removeprefix("chat  1.0 s  ")


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ({"name": "queued", "position": 2}, "queued behind 2"),
        ({"name": "queued"}, "queued"),
        ({"name": "loading"}, "loading"),
        ({"name": "prefilling", "done": 812, "total": 1310}, "prefilling 61 % of 1310 tokens"),
        ({"name": "prefilling"}, "prefilling"),
        ({"name": "decoding", "done": 41}, "decoding 41 tokens"),
        ({"name": "decoding"}, "decoding"),
        ({"name": "retrying", "text": "ConnectionError"}, "retrying ConnectionError"),
        ({"name": "tool", "text": "se\x1barch"}, "tool se\\x1barch"),
    ],
)
def test_an_open_span_has_its_state_and_phase(phase, words):
    assert open_label("running", phase) == f"running  {words}"
    assert open_label("silent", phase, 7.4) == f"silent for 7 s  {words}"
    assert open_label("lost", phase) == f"lost at {CLOCK} while {words}"


def test_an_open_span_without_a_phase_has_its_state():
    assert open_label("running") == "running"
    assert open_label("silent", silent_s=None) == "silent"
    assert open_label("lost") == f"lost at {CLOCK}"


def test_a_repeated_prefill_is_a_line_below_the_call():
    attributes = {
        **USAGE,
        semconv.USAGE_INPUT_TOKENS: 1310,
        semconv.USAGE_CACHE_READ: 96,
        semconv.PREFIX_SHARED: 96,
        semconv.PREFIX_REPEATED: 1204,
        semconv.PREFIX_PREVIOUS_NODE: "plan",
        semconv.PREFIX_COST: 2.1,
    }
    (tree,) = render_tree([record("a", "", "chat", 0, 1, attributes=attributes)], 200)
    assert tree.label.plain.splitlines()[1:] == [
        "prefilled 1,214 of 1,310 tokens again: differs from node plan's prompt at token 96, cost 2.1 s"
    ]
