"""Values that are hard to hold: never raised, always encodable, counted when they had to change."""

from __future__ import annotations

import json
import math
from enum import IntEnum, StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider

from nodespan.spans import attributes
from nodespan.spans.attributes import to_attribute, to_attributes
from nodespan.spans.redaction import MAX_TEXT_BYTES


@pytest.fixture
def changed(monkeypatch):
    """Counts the values that had to change."""
    seen: list[str] = []
    monkeypatch.setattr(attributes, "report", lambda operation, _problem: seen.append(operation))
    return seen


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 11


@pytest.mark.parametrize(
    "value", ["text", "ünï", 0, -(2**63), 2**63 - 1, 1.5, True, ("a", "b"), (1, 2)], ids=lambda value: repr(value)[:20]
)
def test_a_plain_value_is_kept_unchanged(value, changed):
    held = to_attribute(value)
    assert held == value
    assert type(held) is type(value)
    assert changed == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 11),
        (["a", "b"], ("a", "b")),
        ([], ()),
    ],
)
def test_a_value_of_a_subclass_is_kept_as_the_plain_one(value, expected, changed):
    assert to_attribute(value) == expected
    assert type(to_attribute(value)) is type(expected)
    assert changed == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("half \ud83d", "half ?"),
        (2**63, str(2**63)),
        (b"\x00\xff", "00ff"),
        ({"a": {"b": 1}}, '{"a": {"b": 1}}'),
        ([1, "a"], '[1, "a"]'),
    ],
)
def test_an_unencodable_value_is_converted_and_counted(value, expected, changed):
    assert to_attribute(value) == expected
    assert changed


def test_nan_is_kept(changed):
    held = to_attribute(math.nan)
    assert isinstance(held, float)
    assert math.isnan(held)


def test_ten_megabytes_are_cut_with_size_and_digest(changed):
    held = to_attribute("x" * 10_000_000)
    assert isinstance(held, str)
    assert len(held.encode()) == MAX_TEXT_BYTES
    assert to_attribute(held) == held
    assert "10000000 bytes in all, sha256 " in held
    assert changed


def test_an_object_whose_repr_raises_is_omitted_and_counted(changed):
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert to_attributes({"a": Hostile(), "b": 1}) == {"b": 1}
    assert changed


def test_a_list_with_an_integer_that_is_too_long_is_a_list_of_texts():
    assert to_attribute([1, 2**63]) == ("1", str(2**63))


def test_an_integer_of_any_length_becomes_a_text():
    assert to_attribute(10**5000) == hex(10**5000)


class Unprintable:
    def __repr__(self):
        raise RuntimeError("detached")


def _loop():
    loop: list[object] = [1]
    loop.append(loop)
    return loop


@pytest.mark.parametrize("value", [[Unprintable(), 1], {"a": Unprintable()}, _loop(), [10**5000, "a"]])
def test_an_unwritable_value_is_omitted(value):
    assert to_attribute(value) is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(anything)
def test_the_encoder_accepts_every_converted_value(value):
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("span")
    attributes = to_attributes({"value": value})
    span.set_attributes(attributes)
    span.end()
    encoded = encode_spans([span._readable_span()]).resource_spans[0].scope_spans[0].spans[0]
    assert len(encoded.attributes) == len(attributes)
    encoded.SerializeToString()
    json.dumps(attributes)


def test_plain_attributes_are_not_converted_again():
    once = to_attributes({"a": [1, 2], "b": None})
    assert to_attributes(once) is once
    assert once == {"a": (1, 2)}
