"""Details of a model call: where its time went, context headroom, and what its prompt shared with the call before."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from nodespan import semconv
from viewer_process import Viewer

pytestmark = pytest.mark.extended

TRACE = "5" * 32
CALLS = (
    {"node": "plan", "input": 100},
    {"node": "check_facts", "input": 100, "shared": 20, "repeated": 80, "previous": "plan"},
    {"node": "plan", "input": 120, "shared": 100, "repeated": 20, "previous": "check_facts"},
    {"node": "check_facts", "input": 100, "shared": 40, "repeated": 60, "previous": "plan"},
    {"node": "summarise", "input": 100, "shared": 50, "repeated": 50, "previous": "check_facts"},
)


@pytest.fixture(scope="module")
def viewer(own_viewer: Viewer) -> Viewer:
    spans = [span("1", "", "invoke_workflow trip", 0, 60, {semconv.OPERATION_NAME: semconv.INVOKE_WORKFLOW})]
    for i, call in enumerate(CALLS):
        spans += call_spans(i, call)
    resource = {"scopeSpans": [{"scope": {"name": "program"}, "spans": spans}]}
    answer = own_viewer.new_client().post("/v1/traces", json={"resourceSpans": [resource]})
    assert answer.json() == {}, answer.text
    return own_viewer


def call_spans(i: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    """A node with a model call and its phases; 10 s a call, of which 2 s are prefill and 6 s decode."""
    start, node, model = 10 * i, f"a{i}", f"b{i}"
    attributes = {
        semconv.OPERATION_NAME: semconv.CHAT,
        semconv.USAGE_INPUT_TOKENS: call["input"],
        semconv.USAGE_OUTPUT_TOKENS: 60,
        semconv.CONTEXT_SIZE: 640,
    }
    if "shared" in call:
        attributes |= {
            semconv.PREFIX_SHARED: call["shared"],
            semconv.PREFIX_REPEATED: call["repeated"],
            semconv.PREFIX_PREVIOUS_NODE: call["previous"],
            semconv.PREFIX_COST: 1.5,
        }
    node_attributes = {semconv.OPERATION_NAME: semconv.INVOKE_NODE, semconv.LANGGRAPH_NODE: call["node"]}
    return [
        span(node, "1", f"invoke_node {call['node']}", start, start + 10, node_attributes),
        span(model, node, "chat small", start, start + 10, attributes),
        span(f"c{i}", model, semconv.PIPELINE_QUEUE, start, start + 1, {}),
        span(f"d{i}", model, semconv.LLAMA_CPP_PREFILL, start + 1, start + 3, {}),
        span(f"e{i}", model, semconv.LLAMA_CPP_DECODE, start + 3, start + 9, {}),
    ]


def span(number: str, parent: str, name: str, start_s: int, end_s: int, attributes: dict[str, Any]) -> dict[str, Any]:
    t0_s = int(time.time()) - 100
    kinds = {int: "intValue", float: "doubleValue", str: "stringValue"}
    return {
        "traceId": TRACE,
        "spanId": number.zfill(16),
        "parentSpanId": parent and parent.zfill(16),
        "name": name,
        "startTimeUnixNano": str((t0_s + start_s) * 10**9),
        "endTimeUnixNano": str((t0_s + end_s) * 10**9),
        "attributes": [{"key": key, "value": {kinds[type(value)]: value}} for key, value in attributes.items()],
    }


def test_the_prefix_lens_has_the_call_and_the_matrix_of_the_run(page: Page, viewer: Viewer) -> None:
    page.goto(f"{viewer.base}/trace/{TRACE}?span={'b1'.zfill(16)}")
    prefix = page.locator(".prefix")
    expect(prefix.locator("dl")).to_contain_text("20 of 100 tokens, 20 %")
    expect(prefix.locator("dl")).to_contain_text("plan")
    expect(prefix.locator("dl")).to_contain_text("80 tokens")
    expect(prefix.locator("dl")).to_contain_text("1.50 s")
    prefix.locator("summary").click()
    table = prefix.locator(".matrix table")
    assert table.locator("thead th").all_inner_texts() == ["plan", "check_facts"]
    rows = {
        row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()
    }
    assert rows == {"check_facts": ["30 %", ""], "plan": ["", "83 %"], "summarise": ["", "50 %"]}


def test_a_first_call_has_no_prefix_lens(page: Page, viewer: Viewer) -> None:
    page.goto(f"{viewer.base}/trace/{TRACE}?span={'b0'.zfill(16)}")
    lens = page.locator(".lens")
    expect(lens).to_contain_text("160 of 640 tokens, 75 % free")
    expect(lens).to_contain_text("9.83 tok/s")
    for phase in ("queue", "prefill", "decode"):
        expect(lens).to_contain_text(phase)
    expect(page.locator(".prefix")).to_have_count(0)
