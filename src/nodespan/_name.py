"""Entries of the table of names in ``semconv.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["attribute", "event", "metric", "operation"]
Stability = Literal["stable", "development"]

CORE: Final = "OpenTelemetry semantic conventions 1.41"
GENAI: Final = "OpenTelemetry GenAI semantic conventions, semconv 1.41"
_PROMETHEUS_UNITS: Final = {"s": "seconds", "By": "bytes"}


@dataclass(frozen=True, slots=True)
class Name:
    """The description of one name.

    Attributes:
        type: OTLP value type of an attribute, instrument of a metric.
        unit: UCUM, empty where a value has none.
        source: Convention and version of a standard name; for others, why no standard name fits.
        labels: Attributes of a metric's points. They have few values: never ids, never texts of the user.
        buckets: Upper bounds of a histogram's buckets, in its unit.
    """

    name: str
    kind: Kind
    meaning: str
    type: str
    unit: str
    stability: Stability
    source: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """A metric's name in Prometheus after OTLP ingestion; a histogram has `_bucket`, `_sum`, `_count` after it.

        The rules are Prometheus 3's (`UnderscoreEscapingWithSuffixes`): a unit in braces adds nothing, and the unit 1
        is added to gauges only.
        """
        words = [self.name.replace(".", "_")]
        if self.unit in _PROMETHEUS_UNITS:
            words.append(_PROMETHEUS_UNITS[self.unit])
        elif self.unit == "1" and self.type.endswith("gauge"):
            words.append("ratio")
        if self.type in {"counter", "observable counter"}:
            words.append("total")
        return "_".join(words)


NAMES: Final[dict[str, Name]] = {}


def standard(
    name: str, meaning: str, type_: str = "string", unit: str = "", source: str = GENAI, kind: Kind = "attribute"
) -> str:
    """Enters a name of a convention; returns the name."""
    stability: Stability = "stable" if source == CORE else "development"
    NAMES[name] = Name(name, kind, meaning, type_, unit, stability, source)
    return name


def ours(name: str, meaning: str, why: str, type_: str = "string", unit: str = "", kind: Kind = "attribute") -> str:
    """Enters a name of nodespan's own; returns the name."""
    NAMES[name] = Name(name, kind, meaning, type_, unit, "development", why)
    return name


def metric(
    name: str,
    type_: str,
    unit: str,
    labels: tuple[str, ...],
    meaning: str,
    source: str,
    buckets: tuple[float, ...] = (),
) -> str:
    """Enters a metric; returns its name."""
    NAMES[name] = Name(name, "metric", meaning, type_, unit, "development", source, labels, buckets)
    return name
