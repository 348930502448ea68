"""The committed boards equal the output of `make dashboards`, and query only emitted metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any
from urllib.parse import parse_qs, urlsplit

import promql_parser
import pytest
from inline_snapshot import snapshot
from promql_parser import AggregateExpr, MatrixSelector, VectorSelector

from boards import BOARDS, FOLDER, VARIABLE, Asked, asked, panels, substituted
from dashboards.generate import files
from nodespan.semconv import NAMES

PANELS = [(uid, panel) for uid, board in sorted(BOARDS.items()) for panel in panels(board)]
ON_EVERY_SERIES = {"service_name", "job", "instance", "otel_metric_overflow"}
LATENCY = re.compile(r"_duration_seconds_bucket|_time_to_first_\w+_seconds_bucket")
# What Prometheus scrapes, with labels: its own word for what answers, and the Collector's metrics of itself.
SCRAPED = {
    "up": {"job", "instance"},
    "otelcol_receiver_accepted_spans_total": {"receiver", "transport"},
    "otelcol_receiver_refused_spans_total": {"receiver", "transport"},
    "otelcol_exporter_sent_spans_total": {"exporter"},
    "otelcol_exporter_send_failed_spans_total": {"exporter"},
    "otelcol_exporter_enqueue_failed_spans_total": {"exporter"},
    "otelcol_exporter_queue_size": {"exporter", "data_type"},
    "otelcol_exporter_queue_capacity": {"exporter", "data_type"},
}
# Grafana's own variables that a link or a query may use.
BUILT_IN = {"__rate_interval", "__range", "__from", "__to", "__url_time_range", "__field", "__data"}


def each(items: list[Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("item", items, ids=lambda item: str(item) if isinstance(item, Asked) else None)


def emitted() -> dict[str, set[str]]:
    """The labels of each metric of nodespan, by its name in Prometheus."""
    found: dict[str, set[str]] = {}
    for name in NAMES.values():
        if name.kind == "metric":
            labels = {label.replace(".", "_") for label in name.labels}
            parts = ("bucket", "sum", "count") if name.type == "histogram" else ("",)
            for part in parts:
                more = {"le"} if part == "bucket" else set()
                found["_".join(filter(None, (name.prometheus_name, part)))] = labels | more
    return found


METRICS = {**emitted(), **SCRAPED}


def selectors(expression: str) -> list[VectorSelector]:
    found: list[VectorSelector] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, VectorSelector):
            found.append(part)
        elif isinstance(part, MatrixSelector):
            found.append(part.vector_selector)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def groupings(expression: str) -> set[str]:
    found: set[str] = set()

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, AggregateExpr) and part.modifier:
            found.update(part.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def links(board: dict[str, Any]) -> Iterator[str]:
    yield from (link["url"] for link in board["links"])
    for panel in panels(board):
        yield from (link["url"] for link in panel["fieldConfig"]["defaults"]["links"])


def test_the_committed_boards_equal_the_generated_ones() -> None:
    committed = {path.name: path.read_text() for path in (FOLDER / "json").iterdir()}
    assert committed == files(), "Type: make dashboards"


def test_there_are_three_boards_of_8_to_12_panels() -> None:
    assert sorted(BOARDS) == ["nodespan-models", "nodespan-telemetry", "nodespan-workflows"]
    assert [uid for uid, board in BOARDS.items() if not 8 <= len(list(panels(board))) <= 12] == []


@pytest.mark.parametrize("uid", BOARDS)
def test_a_board_can_be_provisioned_as_it_is(uid: str) -> None:
    board = BOARDS[uid]
    assert (board["uid"], board["schemaVersion"], board["editable"]) == (uid, 42, False)
    assert not {"id", "__inputs", "__requires"} & board.keys()
    ids = [panel["id"] for panel in panels(board)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_fill_the_grid_and_none_lies_on_another(uid: str) -> None:
    places = [panel["gridPos"] for panel in panels(BOARDS[uid])]
    for place in places:
        assert place["h"] > 0
        assert place["w"] > 0
        assert place.get("x", 0) + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = [one[at] + one[size] <= other[at] or other[at] + other[size] <= one[at] for at, size in ("xw", "yh")]
        assert any(apart), (one, other)
    assert sum(place["h"] * place["w"] for place in places) == 24 * max(place["y"] + place["h"] for place in places)


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=lambda item: item["title"] if isinstance(item, dict) else None)
def test_a_panel_has_a_question_description_unit_and_links(uid: str, panel: dict[str, Any]) -> None:
    assert panel["title"].endswith("?")
    assert panel["description"].endswith(".")
    assert len(panel["description"]) > 60
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
    assert panel["fieldConfig"]["defaults"]["links"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


def test_a_panel_with_good_and_bad_values_has_a_threshold() -> None:
    limits = {panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for _, panel in PANELS}
    judged = {title: [step["color"] for step in steps] for title, steps in limits.items() if len(steps) > 1}
    assert judged == snapshot(
        {
            "How long until the first token?": ["green", "orange", "red"],
            "How full does the context get?": ["green", "orange", "red"],
            "How long do requests wait for the model?": ["green", "orange", "red"],
            "Are Collector, Jaeger and Prometheus up?": ["red", "green"],
            "How many spans wait to be sent?": ["green", "orange", "red"],
            "For how long has the oldest waited?": ["green", "orange", "red"],
            "Has a metric too many label values?": ["green", "red"],
            "Which spans were dropped, and why?": ["green", "red"],
            "Does nodespan have internal errors?": ["green", "red"],
            "How full are the Collector's queues?": ["green", "orange", "red"],
            "Does the Collector refuse or lose spans?": ["green", "red"],
            "What part of the runs failed?": ["green", "orange", "red"],
            "Which nodes fail?": ["green", "orange", "red"],
        }
    )


def test_no_two_panels_have_the_same_question() -> None:
    titles = [panel["title"] for _, panel in PANELS]
    assert len(set(titles)) == len(titles)


@each(asked())
def test_a_query_uses_only_emitted_metrics_and_labels(item: Asked) -> None:
    expression = item.expression(service="assistant")
    chosen = selectors(expression)
    assert chosen
    labels = set[str]()
    for selector in chosen:
        if selector.name is None:  # the overflow of any metric
            assert [matcher.name for matcher in selector.matchers.matchers] == ["service_name", "otel_metric_overflow"]
            continue
        assert selector.name in METRICS
        labels = METRICS[selector.name] | ON_EVERY_SERIES
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels
    known = labels.union(*(METRICS[selector.name] for selector in chosen if selector.name))
    assert groupings(expression) <= known
    assert set(re.findall(r"{{(\w+)}}", item.target.get("legendFormat", ""))) <= groupings(expression)


@each(asked())
def test_a_query_adds_no_zero_and_hides_none(item: Asked) -> None:
    assert not re.search(r"vector\(|absent|default", item.target["expr"])
    assert not item.target.get("hide")


@each(asked())
def test_every_query_uses_the_filters_of_its_board(item: Asked) -> None:
    """A query over a metric with a label that a variable of the board chooses from has to obey the choice."""
    shown = {variable["name"] for variable in BOARDS[item.board]["templating"]["list"] if variable["hide"] == 0}
    label_of = {"workflow": "gen_ai_workflow_name", "node": "gen_ai_node_name", "model": "gen_ai_request_model"}
    for selector in selectors(item.expression(**{name: f"the {name}" for name in ("service", *label_of)})):
        matched = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        if selector.name in SCRAPED:
            continue
        assert matched["service_name"] == "the service"
        wanted = {
            label_of[name]: f"the {name}" for name in label_of if label_of[name] in METRICS.get(selector.name, ())
        }
        assert wanted.items() <= matched.items()
        assert {name for name, label in label_of.items() if label in wanted} <= shown


@each([item for item in asked() if LATENCY.search(item.target["expr"]) and item.panel["type"] != "table"])
def test_latency_panels_have_exemplars(item: Asked) -> None:
    assert item.target["exemplar"] is True


@pytest.mark.parametrize("uid", BOARDS)
def test_a_link_opens_a_board_or_jaegers_search(uid: str) -> None:
    variables = {variable["name"] for variable in BOARDS[uid]["templating"]["list"]}
    found = list(links(BOARDS[uid]))
    assert len(found) >= 3
    attributes = {name.name for name in NAMES.values() if name.kind == "attribute"}
    for url in found:
        assert {one or other for one, other in VARIABLE.findall(url)} <= variables | BUILT_IN
        parts = urlsplit(url)
        if url.startswith("/d/"):
            target = parts.path.removeprefix("/d/")
            assert target in BOARDS
            there = {variable["name"] for variable in BOARDS[target]["templating"]["list"]}
            assert {name.removeprefix("var-") for name in parse_qs(parts.query) if name.startswith("var-")} <= there
        else:
            assert parts.path == "${jaeger}/search"
            assert parse_qs(parts.query)["service"] == ["${service}"]
            sought = re.findall(r'"([\w.]+)":', parse_qs(parts.query).get("tags", [""])[0])
            assert set(sought) <= attributes


@pytest.mark.parametrize("uid", BOARDS)
def test_each_board_links_to_the_others_with_time_and_filters(uid: str) -> None:
    ways = {link["url"].removeprefix("/d/"): link for link in BOARDS[uid]["links"] if link["url"].startswith("/d/")}
    assert ways.keys() == BOARDS.keys() - {uid}
    assert all(link["includeVars"] and link["keepTime"] and "placement" not in link for link in ways.values())
    assert [variable["name"] for variable in BOARDS[uid]["templating"]["list"]] == [
        "service", "workflow", "node", "model", "jaeger",
    ]  # fmt: skip


@pytest.mark.parametrize("uid", BOARDS)
def test_a_variable_is_read_from_a_metric_and_label_that_are_emitted(uid: str) -> None:
    queries = [variable for variable in BOARDS[uid]["templating"]["list"] if variable["type"] == "query"]
    assert len(queries) == 4
    for variable in queries:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        (selector,) = selectors(substituted(found[1], {"service": "s"}))
        matched = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        if variable["name"] == "service":  # every service that has emitted one of nodespan's metrics
            assert (found[2], list(matched)) == ("service_name", ["__name__"])
            ours = re.compile(matched["__name__"])
            assert [name for name in emitted() if not ours.fullmatch(name) and not name.startswith("otel_sdk_")] == []
        else:
            assert {found[2], *matched} <= METRICS[selector.name] | ON_EVERY_SERIES


def test_the_docs_describe_each_panel() -> None:
    page = " ".join((FOLDER.parent / "docs" / "boards.md").read_text().split())
    assert [panel["title"] for _, panel in PANELS if f"*{panel['title']}*" not in page] == []
