"""Reading what arrived in Jaeger and Prometheus, for the tests of the stack; always with a deadline."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE_S = 90.0
POLL_S = 0.2


def eventually(read: Callable[[], T], holds: Callable[[T], object], what: str, patience_s: float = PATIENCE_S) -> T:
    """Reads until the condition holds; otherwise fails and shows the last value seen."""
    deadline = time.monotonic() + patience_s
    while not holds(value := read()):
        assert time.monotonic() < deadline, f"{what}: not so after {patience_s} s. Last seen: {value!r:.2000}"
        time.sleep(POLL_S)
    return value


def get(url: str, **parameters: str | int) -> Any:
    """The JSON behind an address; ``None`` for 404."""
    query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
    try:
        with urllib.request.urlopen(url + query, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise AssertionError(f"{url}{query}: {error.code} {error.read().decode(errors='replace'):.500}") from None


@dataclass(frozen=True)
class SeenSpan:
    """A span as Jaeger gives it back."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    is_error: bool
    status_message: str
    attributes: dict[str, Any]
    events: tuple[str, ...]
    service: str
    duration_s: float


class Jaeger:
    """Jaeger's HTTP API, ``/api/v3`` and ``/api/metrics``."""

    def __init__(self, address: str) -> None:
        self._address = address

    def services(self) -> list[str]:
        return (get(f"{self._address}/api/v3/services") or {}).get("services", [])

    def trace(self, trace_id: str) -> list[SeenSpan]:
        """All spans of a trace that are there by now."""
        return list(_spans(get(f"{self._address}/api/v3/traces/{trace_id}")))

    def find(self, service: str, most: int = 1000) -> list[SeenSpan]:
        """All spans of a service in the last hour."""
        now = time.time()
        found = get(
            f"{self._address}/api/v3/traces",
            **{
                "query.serviceName": service,
                "query.startTimeMin": _rfc3339(now - 3600),
                "query.startTimeMax": _rfc3339(now + 60),
                "query.searchDepth": most,
            },
        )
        return list(_spans(found))

    def monitor(self, what: str, service: str, **parameters: str | int) -> dict[str, list[float]]:
        """The Monitor tab's numbers by operation. ``what``: calls, errors or latencies."""
        answer = get(
            f"{self._address}/api/metrics/{what}",
            service=service,
            spanKind="internal",
            groupByOperation="true",
            endTs=round(time.time() * 1e3),
            lookback=600_000,
            step=5_000,
            ratePer=60_000,
            **parameters,
        )
        return {
            _label(metric, "operation"): [
                point["gaugeValue"]["doubleValue"]
                for point in metric["metricPoints"]
                if isinstance(point.get("gaugeValue", {}).get("doubleValue"), float | int)
            ]
            for metric in (answer or {}).get("metrics", [])
        }


def _label(metric: dict[str, Any], name: str) -> str:
    return next((label["value"] for label in metric["labels"] if label["name"] == name), "")


def _rfc3339(unix: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


def _spans(answer: Any) -> Iterator[SeenSpan]:
    for of_resource in ((answer or {}).get("result") or {}).get("resourceSpans", []):
        resource = _attributes(of_resource["resource"])
        for of_scope in of_resource["scopeSpans"]:
            for span in of_scope["spans"]:
                yield SeenSpan(
                    name=span["name"],
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent_id=span.get("parentSpanId", ""),
                    kind=span.get("kind", 0),
                    is_error=span.get("status", {}).get("code") in {2, "STATUS_CODE_ERROR"},
                    status_message=span.get("status", {}).get("message", ""),
                    attributes=_attributes(span),
                    events=tuple(event["name"] for event in span.get("events", [])),
                    service=resource.get("service.name", ""),
                    duration_s=(int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e9,
                )


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in holder.get("attributes", [])}


def _value(value: dict[str, Any]) -> Any:
    [(kind, plain)] = value.items()
    if kind == "arrayValue":
        return [_value(one) for one in plain.get("values", [])]
    return int(plain) if kind == "intValue" else plain


class Prometheus:
    """Prometheus' HTTP API. A warning or an info in an answer is a failure."""

    def __init__(self, address: str) -> None:
        self._address = address

    def _ask(self, path: str, **parameters: str | int) -> Any:
        answer = get(f"{self._address}/api/v1/{path}", **parameters)
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), (parameters, answer["warnings"])
        assert not answer.get("infos"), (parameters, answer["infos"])
        return answer["data"]

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every sample of an instant query, now or at a unix time."""
        moment = {} if at is None else {"time": f"{at:.3f}"}
        answer = self._ask("query", query=expression, **moment)
        return [(one["metric"], float(one["value"][1])) for one in answer["result"]]

    def series(self, match: str) -> list[dict[str, str]]:
        """Labels of all series of the last hour that match."""
        return self._ask("series", **{"match[]": match, "start": round(time.time()) - 3600})

    def label_values(self, label: str, match: str) -> list[str]:
        """Values of a label in the series of the last hour that match."""
        return self._ask(f"label/{label}/values", **{"match[]": match, "start": round(time.time()) - 3600})

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """Exemplars of the last hour: each with ``labels``, ``value``, ``timestamp``."""
        now = round(time.time())
        answer = self._ask("query_exemplars", query=expression, start=now - 3600, end=now + 60)
        return [exemplar for of_series in answer for exemplar in of_series["exemplars"]]

    def rules(self) -> list[dict[str, Any]]:
        """Every recording and alert rule with its health."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, str]]:
        """Labels of every alert that is pending or firing, with its ``alertstate``."""
        return [labels for labels, _ in self.query("ALERTS")]
