"""Each panel of each board shows, on the real Prometheus, the known number of the seeded run."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from stack_local import LocalStack

from board_answers import Grafana, Shown, key, lines, shows
from boards import BOARDS, Asked, asked, panels, substituted
from expected_panels import AT_THE_END, AT_THEIR_HIGHEST, OF_THE_COLLECTOR, Run
from stack_backends import Jaeger, Prometheus, eventually, get

BURST = 100
QUIET_S = 4  # several scrapes


def each(keys: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("item", [item for item in asked() if key(item) in keys], ids=str)


@pytest.fixture(scope="module")
def run(seeded: dict[str, Any], jaeger: Jaeger, smollm2: Path) -> Run:
    traces = {one["trace_id"] for one in seeded["runs"]}
    spans = eventually(
        lambda: [span for trace_id in traces for span in jaeger.trace(trace_id)],
        lambda spans: len(spans) == seeded["delivery"]["ended"],
        "the seeded run's spans in Jaeger",
    )
    return Run(seeded, spans, smollm2.stat().st_size)


@pytest.fixture(scope="module")
def grafana(prometheus: Prometheus, seeded: dict[str, Any]) -> Grafana:
    return Grafana(prometheus, seeded)


def test_every_panel_has_its_number_in_the_table() -> None:
    tables = [AT_THE_END, AT_THEIR_HIGHEST, OF_THE_COLLECTOR]
    assert sorted(key(item) for item in asked()) == sorted(one for table in tables for one in table)


@each(AT_THE_END)
def test_panels_of_counts_equal_the_run(item: Asked, grafana: Grafana, run: Run) -> None:
    shows(lambda: grafana.at_the_end(item), AT_THE_END[key(item)](run), item)


@each(AT_THEIR_HIGHEST)
def test_panels_of_current_values_were_sampled_during_the_run(item: Asked, grafana: Grafana, run: Run) -> None:
    shows(lambda: grafana.at_their_highest(item), AT_THEIR_HIGHEST[key(item)](run), item)


@pytest.fixture(scope="module")
def burst(stack: LocalStack, prometheus: Prometheus, run: Run) -> float:
    """Time from which only a burst of spans passes through the collector, whose counters exist before it."""
    del run
    counters = [
        f'otelcol_{name}_spans_total{{job="otel-collector"}}' for name in ("receiver_accepted", "exporter_sent")
    ]
    still = " and ".join(f"sum(changes({counter}[{QUIET_S}s])) == 0" for counter in counters)
    all_sent = " == ".join(f"sum({counter})" for counter in counters)
    eventually(lambda: prometheus.query(f"{still} and {all_sent}"), bool, "a quiet collector")
    quiet_since = time.time() - QUIET_S
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{stack.endpoint}/v1/traces")))
    for number in range(BURST):
        provider.get_tracer("burst").start_span(f"burst {number}").end()
    provider.shutdown()
    return quiet_since


@each(OF_THE_COLLECTOR)
def test_panels_of_the_collector_equal_the_exported_data(
    item: Asked, grafana: Grafana, prometheus: Prometheus, burst: float
) -> None:
    is_rate = "rate(" in item.target["expr"]

    def read() -> Shown:
        window = time.time() - burst
        found = lines(prometheus.query(grafana.expression(item, window)))
        return {name: number * window / BURST if is_rate else number for name, number in found.items()}

    # rate() extrapolates by at most a scrape's interval at each end, so the error falls with the length of the window.
    expected = {name: (0.9, 1.1) if number == 1 else number for name, number in OF_THE_COLLECTOR[key(item)].items()}
    shows(read, expected, item)


@pytest.mark.parametrize("uid", BOARDS)
def test_every_variable_has_the_runs_values(uid: str, prometheus: Prometheus, run: Run) -> None:
    wanted = {
        "service": {run.printed["service"]},
        "workflow": {one["workflow"] for one in run.printed["runs"]},
        "node": {one["node"] for one in run.printed["nodes"]},
        "model": set(run.printed["models"]),
    }
    for variable in BOARDS[uid]["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            match = substituted(found[1], {"service": run.printed["service"]})
            values = eventually(
                lambda: set(prometheus.label_values(found[2], match)),  # noqa: B023 called at once
                lambda seen: wanted[variable["name"]] <= seen,  # noqa: B023
                f"values of {variable['name']}",
            )
            if variable["name"] != "service":
                assert values == wanted[variable["name"]]


@pytest.mark.parametrize("item", [item for item in asked() if item.target.get("exemplar")], ids=str)
def test_an_exemplar_of_the_panel_leads_to_the_runs_trace(
    item: Asked, grafana: Grafana, prometheus: Prometheus, jaeger: Jaeger, run: Run
) -> None:
    expression = grafana.expression(item)
    exemplars = eventually(lambda: prometheus.exemplars(expression), bool, f"exemplars of {item}")
    traces = {exemplar["labels"]["trace_id"] for exemplar in exemplars}
    assert traces <= {one["trace_id"] for one in run.printed["runs"]}
    assert all(jaeger.trace(trace_id) for trace_id in traces)


def data_links() -> list[tuple[dict[str, Any], str]]:
    links = [
        (panel, link["url"])
        for board in BOARDS.values()
        for panel in panels(board)
        for link in panel["fieldConfig"]["defaults"]["links"]
    ]
    return [(panel, url) for panel, url in links if url.startswith("${jaeger}/search?")]


@pytest.mark.parametrize(
    ("panel", "url"), data_links(), ids=lambda part: part["title"] if isinstance(part, dict) else ""
)
def test_a_data_link_finds_the_runs_traces(
    panel: dict[str, Any], url: str, grafana: Grafana, stack: LocalStack, run: Run
) -> None:
    """Jaeger's page passes the query of its address to its API."""
    item = Asked("", panel, panel["targets"][0])
    labels = next(iter(labels for labels, _ in grafana.samples(item)), {})
    clicked = re.sub(r"\$\{__field\.labels\.(\w+)\}", lambda found: labels[found[1]], url)
    clicked = clicked.replace("${__data.fields.Name}", next(iter(labels.values()), ""))
    address = substituted(
        clicked.replace("/search?", "/api/traces?"),
        {
            "jaeger": stack.jaeger,
            "service": run.printed["service"],
            "__from": f"{1000 * grafana.start:.0f}",
            "__to": f"{1000 * grafana.end:.0f}",
        },
    )
    found = {trace["traceID"] for trace in get(address)["data"]}
    assert found
    assert found <= {one["trace_id"] for one in run.printed["runs"]}
