"""Grafana's provisioning fits the boards, and the compose file that mounts it."""

from __future__ import annotations

from typing import Any

import promql_parser
import yaml

from boards import BOARDS, FOLDER

PROVISIONING = FOLDER / "provisioning"


def sources() -> dict[str, dict[str, Any]]:
    text = (PROVISIONING / "datasources" / "datasources.yaml").read_text()
    return {source["uid"]: source for source in yaml.safe_load(text)["datasources"]}


def test_a_dollar_is_written_twice() -> None:
    for path in PROVISIONING.rglob("*.yaml"):
        assert "$" not in path.read_text().replace("$$", "")


def test_the_data_source_of_the_boards_exists() -> None:
    named = {
        (panel["datasource"]["type"], panel["datasource"]["uid"]) for b in BOARDS.values() for panel in b["panels"]
    }
    assert named == {("prometheus", "prometheus")}
    assert sources()["prometheus"]["type"] == "prometheus"


def test_an_exemplar_opens_its_trace_in_jaeger() -> None:
    destinations = sources()["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert {each["name"] for each in destinations} == {"trace_id"}
    assert [each["datasourceUid"] for each in destinations if "datasourceUid" in each] == ["jaeger"]
    assert sources()["jaeger"]["type"] == "jaeger"
    jaeger = next(v["query"] for v in BOARDS["nodespan-models"]["templating"]["list"] if v["name"] == "jaeger")
    assert [each["url"] for each in destinations if "url" in each] == [f"{jaeger}/trace/$${{__value.raw}}"]


def test_a_trace_links_to_metrics_of_the_collector() -> None:
    settings = sources()["jaeger"]["jsonData"]["tracesToMetrics"]
    assert settings["datasourceUid"] in sources()
    for query in settings["queries"]:
        promql_parser.parse(query["query"].replace("$$__tags", 'service_name="assistant"'))


def test_provisioned_objects_cannot_be_edited_in_grafana() -> None:
    provider = yaml.safe_load((PROVISIONING / "dashboards" / "provider.yaml").read_text())["providers"][0]
    assert provider["allowUiUpdates"] is False
    assert provider["folder"] == "nodespan"
    assert [uid for uid, source in sources().items() if source["editable"]] == []
