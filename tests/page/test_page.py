"""The page of `nodespan ui` as a person uses it, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import check
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from viewer_process import Viewer

VIEWS = ("waterfall", "graph", "conversation", "state")


def rows(page: Page) -> list[str]:
    """The rows in sight, as a screen reader reads them."""
    return page.locator(".names .row:visible").evaluate_all("all => all.map(row => row.getAttribute('aria-label'))")


def open_run(page: Page, index: int = 0) -> None:
    page.locator("tr[data-id] a.title").nth(index).click()
    page.locator(".names .row").first.wait_for()


class TestRuns:
    def test_the_newest_run_is_first_and_each_outcome_is_shown(self, page: Page, viewer: Viewer) -> None:
        expected = viewer.client.get("/runs.json").json()["traces"]
        page.locator("tr[data-id]").first.wait_for()
        shown = page.locator("tr[data-id]").evaluate_all("all => all.map(row => row.dataset.id)")
        assert shown == [trace["trace_id"] for trace in expected]
        assert page.locator("tr.is-error").count() == sum(trace["errors"] > 0 for trace in expected) > 0

    def test_every_filter_is_in_the_url_and_the_url_is_the_filter(self, page: Page) -> None:
        page.get_by_role("button", name="Errors").click()
        expect(page).to_have_url(re.compile(r"\?error=1$"))
        expect(page.locator("tr[data-id]")).to_have_count(1)
        page.get_by_label("Field of the filter").select_option("conversation")
        page.get_by_label("Value of the filter").fill("thread-0")
        page.keyboard.press("Enter")
        expect(page.locator(".empty")).to_contain_text("No run matches")
        page.get_by_role("button", name="Remove the filter with errors").click()
        expect(page).to_have_url(re.compile(r"\?conversation=thread-0$"))
        expect(page.locator("tr[data-id]")).to_have_count(2)
        page.reload()
        expect(page.locator("tr[data-id]")).to_have_count(2)
        expect(page.get_by_role("listitem")).to_contain_text("conversation: thread-0")
        page.go_back()
        expect(page.locator(".empty")).to_be_visible()
        page.get_by_role("link", name="Clear").click()
        page.get_by_label("Shortest duration").select_option("600")
        expect(page).to_have_url(re.compile("min=600"))
        expect(page.locator(".empty")).to_be_visible()

    def test_the_trends_are_those_of_the_listed_runs(self, page: Page, viewer: Viewer) -> None:
        ended = [run for run in viewer.client.get("/runs.json").json()["traces"] if run["state"] == "ended"]
        trend = page.get_by_role("img", name=f"Duration of {len(ended)} runs")
        heights = [float(point.split(",")[1]) for point in trend.locator("polyline").get_attribute("points").split()]
        durations = [run["duration_s"] for run in reversed(ended)]
        assert len(heights) == len(ended) > 1
        assert min(heights) == heights[durations.index(max(durations))]  # the longest run is highest
        assert max(heights) == heights[durations.index(min(durations))]
        rates = [run["tokens_out"] / run["decode_s"] for run in ended if run["decode_s"] and run["tokens_out"]]
        assert page.get_by_role("img", name=f"Decode of {len(rates)} runs").count() == (len(rates) > 1)

    def test_runs_are_grouped_by_conversation(self, page: Page) -> None:
        page.locator("tr[data-id]").first.wait_for()
        page.keyboard.press("c")
        expect(page).to_have_url(re.compile("group=conversation"))
        expect(page.locator("tr.group")).to_have_count(3)
        assert "thread-2" in page.locator("tr.group").first.inner_text()

    def test_pages_follow_each_other(self, page: Page, viewer: Viewer) -> None:
        newest = viewer.client.get("/runs.json?limit=2").json()
        page.goto(f"{viewer.base}/?before={newest['next']}")
        page.locator("tr[data-id]").first.wait_for()
        shown = page.locator("tr[data-id]").evaluate_all("all => all.map(row => row.dataset.id)")
        assert not set(shown) & {trace["trace_id"] for trace in newest["traces"]}
        page.get_by_role("link", name="Newest").click()
        expect(page.locator(f"tr[data-id='{newest['traces'][0]['trace_id']}']")).to_be_visible()

    def test_the_list_by_keyboard(self, page: Page) -> None:
        page.locator("tr[data-id]").first.wait_for()
        page.keyboard.press("j")
        page.keyboard.press("j")
        second = page.locator("tr[data-id]").nth(1)
        expect(second).to_have_class(re.compile("is-cursor"))
        page.keyboard.press("/")
        expect(page.get_by_label("Value of the filter")).to_be_focused()
        page.keyboard.press("j")  # text, not a key
        expect(page.get_by_label("Value of the filter")).to_have_value("j")
        page.keyboard.press("Escape")
        page.keyboard.press("k")
        page.keyboard.press("e")
        expect(page.locator("tr.is-cursor")).to_have_class(re.compile("is-error"))
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("/trace/[0-9a-f]{32}"))


class TestARun:
    def test_keys_move_open_and_close(self, page: Page) -> None:
        open_run(page, 2)  # the one with an error
        page.keyboard.press("j")
        selected = page.locator(".row[aria-selected=true]")
        expect(selected).to_have_attribute("aria-level", "1")
        before = len(rows(page))
        page.keyboard.press("h")
        expect(page.locator(".names .row:visible")).to_have_count(1)
        page.keyboard.press("l")
        expect(page.locator(".names .row:visible")).to_have_count(before)
        page.keyboard.press("l")
        expect(selected).to_have_attribute("aria-level", "2")
        page.keyboard.press("h")
        page.keyboard.press("h")
        page.keyboard.press("h")
        expect(selected).to_have_attribute("aria-level", "1")
        page.keyboard.press("e")
        expect(page.locator(".detail h2")).to_have_text("node write")
        expect(page.locator(".exception")).to_contain_text("the harbour is closed")
        expect(page.locator(".stacktrace")).to_contain_text("raise ValueError")
        page.keyboard.press("Enter")
        expect(page.locator(".detail")).to_be_focused()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()

    def test_views_have_keys_and_urls_and_one_selection(self, page: Page) -> None:
        open_run(page, 2)
        page.keyboard.press("e")
        expect(page).to_have_url(re.compile(r"span=[0-9a-f]{16}"))
        span = re.search(r"span=([0-9a-f]{16})", page.url)
        assert span
        for key, view in zip("gcsw", ("graph", "conversation", "state", ""), strict=True):
            page.keyboard.press(key)
            expect(page.get_by_role("link", name=(view or "waterfall").capitalize())).to_have_attribute(
                "aria-current", "page"
            )
            assert f"span={span[1]}" in page.url
            assert ("view=" in page.url) == bool(view)
            expect(page.locator(".detail h2")).to_have_text("node write")

    def test_the_span_of_a_url_is_shown_in_any_closed_group(self, page: Page, viewer: Viewer) -> None:
        trace = viewer.client.get("/runs.json").json()["traces"][3]  # a loop with many iterations
        document = viewer.client.get(f"/trace/{trace['trace_id']}.json").json()
        spans = document["spans"]
        named = [document["strings"][index] for index in spans["operation"]]
        row = [i for i, operation in enumerate(named) if operation == "execute_tool"][5]
        page.goto(f"{viewer.base}/trace/{trace['trace_id']}?span={spans['id'][row]}")
        expect(page.locator(".row[aria-selected=true]")).to_have_attribute("aria-label", re.compile("look_up"))
        page.keyboard.press("]")
        page.wait_for_function(f"() => !location.search.includes('{spans['id'][row]}')")
        expect(page.locator(".row[aria-selected=true]")).to_have_attribute("aria-label", re.compile("look_up"))
        page.keyboard.press("[")
        page.wait_for_function(f"() => location.search.includes('{spans['id'][row]}')")

    def test_attributes_are_found_and_copied(self, page: Page) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        open_run(page, 2)
        page.keyboard.press("e")
        search = page.get_by_label("Search attributes")
        search.fill("langgraph.step")
        expect(page.locator(".attributes tr")).to_have_count(1)
        search.fill("no such text")
        expect(page.locator(".attributes")).to_contain_text("No attribute contains")
        page.get_by_role("button", name="Copy JSON").click()
        expect(page.get_by_text("Copied.")).to_be_visible()
        assert '"exception.message"' in page.evaluate("navigator.clipboard.readText()")

    def test_a_resuming_run_links_to_the_run_that_it_resumes(self, page: Page, viewer: Viewer) -> None:
        resuming, interrupted = viewer.client.get("/runs.json").json()["traces"][:2]
        expect(page.locator("tr[data-id]").nth(1)).to_contain_text("interrupted")
        page.locator("tr[data-id] a.resumes").click()
        expect(page).to_have_url(re.compile(f"/trace/{interrupted['trace_id']}"))
        expect(page.locator(".badge")).to_contain_text("interrupted")
        page.go_back()
        open_run(page, 0)
        expect(page).to_have_url(re.compile(f"/trace/{resuming['trace_id']}"))
        page.keyboard.press("j")
        page.locator(".links a").click()
        expect(page).to_have_url(re.compile(rf"/trace/{interrupted['trace_id']}\?span=[0-9a-f]{{16}}"))
        expect(page.locator(".detail h2")).to_have_text("run guide")

    def test_a_span_links_to_jaeger(self, page: Page) -> None:
        open_run(page, 2)
        page.keyboard.press("e")
        link = page.get_by_role("link", name="Open in Jaeger")
        trace, span = re.search("/trace/([0-9a-f]{32})", page.url), re.search("span=([0-9a-f]{16})", page.url)
        assert trace
        assert span
        expect(link).to_have_attribute("href", f"http://jaeger.example/trace/{trace[1]}?uiFind={span[1]}")

    def test_a_zoomed_range_is_in_the_url(self, page: Page) -> None:
        open_run(page, 2)
        page.keyboard.press("e")
        page.keyboard.press("z")
        expect(page).to_have_url(re.compile(r"from=\d+&to=\d+"))
        page.reload()
        expect(page).to_have_url(re.compile(r"from=\d+&to=\d+"))
        page.locator(".names .row").first.wait_for()
        page.keyboard.press("0")
        expect(page).not_to_have_url(re.compile("from="))

    def test_without_captured_texts_the_page_names_the_variable(self, page: Page) -> None:
        open_run(page, 2)
        page.keyboard.press("c")
        expect(page.locator(".how pre")).to_have_text("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=SPAN_ONLY")


def test_iterations_subgraphs_and_keys(page: Page, viewer: Viewer) -> None:
    trace = viewer.client.get("/runs.json", params={"service": "guide"}).json()["traces"][3]["trace_id"]
    page.goto(f"{viewer.base}/trace/{trace}?view=graph")
    plan = page.locator("[data-node=plan]")
    expect(plan).to_have_attribute("data-count", "14")
    page.get_by_label("Iteration", exact=True).select_option("3")
    expect(plan).to_have_attribute("data-count", "1")
    expect(page).to_have_url(re.compile("iteration=3"))
    page.get_by_role("button", name="Next iteration").click()
    expect(page.get_by_label("Iteration", exact=True)).to_have_value("4")
    page.get_by_label("Iteration", exact=True).select_option("0")
    page.locator("[data-node=check]").click()
    expect(page.locator(".detail h2")).to_have_text("node check")
    page.locator(".graph-canvas").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-node=spell]")).to_have_attribute("data-count", "1")
    expect(page.locator(".crumbs")).to_have_text("guide / check")
    page.keyboard.press("o")
    expect(plan).to_have_attribute("data-count", "14")
    page.keyboard.press("l")
    page.keyboard.press("g")
    expect(page.locator(".gnode.is-selected")).to_have_count(1)


def test_the_texts_of_a_node_are_inside_of_its_box(page: Page) -> None:
    open_run(page, 2)  # the one with an error
    page.keyboard.press("g")
    expect(page.locator(".gnode.is-error")).to_contain_text("✕ 1")
    assert page.evaluate(TOO_WIDE) == []


TOO_WIDE = """() => [...document.querySelectorAll('.gnode text')].filter((text) => {
    const box = text.parentElement.querySelector('rect:last-of-type').getBBox();
    return text.getBBox().width > box.width - 4;
}).map((text) => text.textContent)"""


def test_an_incomplete_list_is_marked_and_completed(page: Page, viewer: Viewer) -> None:
    expected = [trace["trace_id"] for trace in viewer.client.get("/runs.json").json()["traces"]]
    answers: list[str] = []

    def answer(route: Route) -> None:
        """The first one is that of a server whose index is being filled."""
        document = route.fetch().json()
        if not answers:
            document["traces"] = document["traces"][:1]
            document["status"]["indexed_spans"] = document["status"]["spans"] // 2
        answers.append("sent")
        route.fulfill(json=document)

    page.route("**/runs.json*", answer)
    page.reload()
    expect(page.get_by_role("note")).to_contain_text("50 %")
    expect(page.locator("tr[data-id]")).to_have_count(1)
    expect(page.locator("tr[data-id]")).to_have_count(len(expected))
    expect(page.get_by_role("note")).to_be_hidden()
    assert page.locator("tr[data-id]").evaluate_all("all => all.map(row => row.dataset.id)") == expected


@pytest.mark.extended
def test_axe_finds_nothing_serious_in_any_view_and_theme(page: Page) -> None:
    axe = (check.node_modules() / "axe-core" / "axe.min.js").read_text()
    for scheme, rules in (("light", None), ("dark", ["color-contrast"])):  # the others do not depend on the theme
        page.emulate_media(color_scheme=scheme)
        page.goto(page.url.split("/trace")[0].split("?")[0])
        page.locator("tr[data-id]").first.wait_for()
        found = {"runs": serious(page, axe, rules)}
        page.keyboard.press("c")
        found["conversations"] = serious(page, axe, rules)
        open_run(page, 2)
        page.keyboard.press("e")
        page.locator(".attributes table").first.wait_for()
        for view in VIEWS:
            page.get_by_role("link", name=view.capitalize(), exact=True).click()
            page.locator(f"section.{'writes' if view == 'state' else view}").wait_for()
            found[view] = serious(page, axe, rules)
        page.keyboard.press("?")
        found["help"] = serious(page, axe, rules)
        page.keyboard.press("Escape")
        assert not any(found.values()), (scheme, found)


def serious(page: Page, axe: str, rules: list[str] | None) -> list[str]:
    # Not as a script element: the page's policy refuses one that is not its own.
    page.evaluate(axe)
    found = page.evaluate("async (only) => (await axe.run(document, only ? { runOnly: only } : {})).violations", rules)
    return [
        f"{rule['id']}: {rule['help']} {[node['target'] for node in rule['nodes']][:4]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def test_at_360_pixels_nothing_is_cut_off(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 720})
    page.locator("tr[data-id]").first.wait_for()
    assert overflow(page) == []
    open_run(page, 2)
    for view in VIEWS:
        page.get_by_role("link", name=view.capitalize(), exact=True).click()
        page.locator(f"section.{'writes' if view == 'state' else view}").wait_for()
        assert overflow(page) == [], view
    page.get_by_role("link", name="Waterfall", exact=True).click()
    page.locator(".names .row").nth(1).click()
    expect(page.locator(".detail")).to_be_in_viewport()
    assert overflow(page) == []


OVERFLOW = """() => {
    const cuts = (each) => ['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(each).overflowX);
    const isCut = (each) => { for (let at = each.parentElement; at; at = at.parentElement) if (cuts(at)) return true; };
    const isBeyond = (each) => each.getBoundingClientRect().right > innerWidth + 1;
    const all = [...document.body.querySelectorAll('*')];
    return all.filter((each) => isBeyond(each) && !isCut(each)).map((each) => each.tagName + '.' + each.className);
}"""


def overflow(page: Page) -> list[str]:
    """Elements that reach beyond the right edge, but those in a part that scrolls."""
    return page.evaluate(OVERFLOW)


def test_a_browser_without_a_token_shows_what_to_open(context: BrowserContext, viewer: Viewer) -> None:
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    answer = page.goto(viewer.base)
    assert answer is not None
    assert answer.ok
    expect(page.get_by_role("alert")).to_contain_text("nodespan ui")
    assert "token" in page.get_by_role("alert").inner_text()
    assert all("401" in problem for problem in problems)


def test_the_token_is_not_left_in_the_address(page: Page, viewer: Viewer) -> None:
    assert viewer.token
    assert viewer.token not in page.url
    assert viewer.token not in page.evaluate("document.cookie")


def test_every_module_is_small_and_imports_downwards() -> None:
    folder = Path(check.ROOT) / "src" / "nodespan" / "viewer" / "page"
    imports = {
        file.stem: set(re.findall(r'^import .* from "(\w+)";$', file.read_text(), re.MULTILINE))
        for file in folder.glob("*.js")
    }
    assert {name for name in imports if len((folder / f"{name}.js").read_text().splitlines()) > 400} == set()
    order: list[str] = []
    while len(order) < len(imports):
        free = [name for name in imports if name not in order and imports[name] <= set(order)]
        assert free, f"a cycle of imports among {sorted(set(imports) - set(order))}"
        order += free
