"""Names, attributes, messages and stacks of foreign origin are text on the page, whatever they contain."""

from __future__ import annotations

import json
import time

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from viewer_process import Viewer

CANARIES = {
    "script": "<script>document.title='owned'</script>",
    "image": "<img src=x onerror=\"document.title='owned'\">",
    "svg": '<svg onload="document.title=\'owned\'"><a href="javascript:alert(1)">x</a></svg>',
    "markdown": "[click](javascript:document.title='owned') ![x](http://evil.example/x.png)",
    "bidi": "invoice\u202egnp.exe",
    "ansi": "\u001b[31mred\u001b]8;;http://evil.example\u0007link\u001b]8;;\u0007",
    "null": "a\u0000b\u200bc\ufeff",
    "template": "{{constructor.constructor('alert(1)')()}} ${alert(1)} %s %n",
    "long": "x" * 20_000,
}
SHOWN = {
    "bidi": "invoice⟨U+202E⟩gnp.exe",
    "ansi": "␛[31mred␛]8;;http://evil.example␇link␛]8;;␇",
    "null": "a␀b⟨U+200B⟩c⟨U+FEFF⟩",
}
EXTENDED = ("image", "null", "template", "long")
"""Run by ``make test-extended``: another canary of the same kind is in ``make test``."""


FOREIGN = """() => [...document.querySelectorAll('script, img, iframe, object, embed, [onload], [onerror]')]
    .map((each) => each.outerHTML.slice(0, 80))"""
REFUSED = """async () => {
    const violation = new Promise((done) => {
        document.addEventListener('securitypolicyviolation', (event) => done(event.violatedDirective), { once: true });
    });
    const script = document.createElement('script');
    script.textContent = 'window.owned = true';
    document.body.append(script);
    return [await violation, window.owned === undefined];
}"""


def attribute(key: str, value: str) -> dict[str, object]:
    return {"key": key, "value": {"stringValue": value}}


def spans_of(text: str, trace: str) -> dict[str, object]:
    """A run in which every text is the canary."""
    now = time.time_ns()
    events = [
        {
            "timeUnixNano": str(now),
            "name": "exception",
            "attributes": [attribute(f"exception.{name}", text) for name in ("type", "message", "stacktrace")],
        }
    ]
    events.append({"timeUnixNano": str(now), "name": text, "attributes": [attribute(text, text)]})
    common = {"traceId": trace, "startTimeUnixNano": str(now), "endTimeUnixNano": str(now + 10**7)}
    node = [
        attribute("gen_ai.operation.name", "invoke_node"),
        attribute("langgraph.node", text),
        attribute("nodespan.node_name", text),
    ]
    model = [attribute("gen_ai.operation.name", "chat"), attribute("gen_ai.request.model", text), attribute(text, text)]
    for name, role in (("input", "user"), ("output", "assistant")):
        model.append(
            attribute(
                f"gen_ai.{name}.messages", json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])
            )
        )
    root = [
        attribute("gen_ai.operation.name", "invoke_workflow"),
        attribute("gen_ai.workflow.name", text),
        attribute("gen_ai.conversation.id", text),
        attribute("user.id", text),
    ]
    spans = [
        {
            **common,
            "spanId": "1" * 16,
            "name": f"invoke_workflow {text}",
            "attributes": root,
            "status": {"code": 2, "message": text},
        },
        {**common, "spanId": "2" * 16, "parentSpanId": "1" * 16, "name": f"invoke_node {text}", "attributes": node},
        {
            **common,
            "spanId": "3" * 16,
            "parentSpanId": "2" * 16,
            "name": text,
            "attributes": model,
            "events": events,
            "status": {"code": 2, "message": text},
        },
    ]
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [attribute("service.name", text)]},
                "scopeSpans": [{"scope": {"name": text}, "spans": spans}],
            }
        ]
    }


@pytest.fixture(scope="module")
def viewer(own_viewer: Viewer) -> Viewer:
    return own_viewer


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.extended if name in EXTENDED else ()) for name in CANARIES],
)
def test_a_canary_is_text_in_every_view(name: str, page: Page, viewer: Viewer) -> None:
    text = CANARIES[name]
    trace = f"{list(CANARIES).index(name) + 1:032x}"
    answer = viewer.new_client().post("/v1/traces", json=spans_of(text, trace))
    assert answer.status_code == 200, answer.text
    shown = SHOWN.get(name, text)
    row = page.locator(f"tr[data-id='{trace}']")  # the open list gets it as a change
    row.wait_for()
    assert shown in row.inner_text()
    page.goto(f"{viewer.base}/trace/{trace}?view=graph&span={'3' * 16}&q=zzz")
    for view in ("graph", "conversation", "state", "waterfall"):
        page.get_by_role("link", name=view.capitalize(), exact=True).click()
        page.locator(f"section.{'writes' if view == 'state' else view}").wait_for()
        expect(page.locator(".exception h3")).to_have_text(shown)
        assert shown in page.locator(".stacktrace").inner_text() or name == "long"
        assert foreign(page) == [], view
    page.locator(".names .row").first.wait_for()
    assert shown[:50] in page.locator(".names").inner_text()
    page.locator(".attributes tr").first.wait_for()
    values = page.locator(".attributes td").all_inner_texts()
    assert any(shown[:1000] in value for value in values), values
    assert page.evaluate("document.title") != "owned"
    links = page.evaluate("() => [...document.querySelectorAll('a')].map(link => link.href)")
    assert all(link.startswith(viewer.base) for link in links), links


def foreign(page: Page) -> list[str]:
    """Elements that load or run something, but the page's own two scripts."""
    inside: list[str] = page.evaluate(FOREIGN)
    return [each for each in inside if "importmap" not in each and "/static/main.js" not in each]


def test_the_policy_refuses_inline_code(context: BrowserContext, viewer: Viewer) -> None:
    page = context.new_page()  # not the fixture, which would fail on the refusal in the console
    page.goto(viewer.address)
    policy = viewer.client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    refused = page.evaluate(REFUSED)
    assert refused == ["script-src-elem", True]
