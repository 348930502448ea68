"""Type, size and keyed hash of values: equal for equal values in every process, different otherwise, bounded."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import hmac
import subprocess
import sys
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from nodespan.spans.fingerprint import fingerprint, set_hash_key

KEY = b"k" * 32


@pytest.fixture(autouse=True)
def key():
    set_hash_key(KEY)
    yield
    set_hash_key(None)


class Colour(enum.Enum):
    RED = 1


class Model(BaseModel):
    a: int
    b: list[str] = []


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.frozensets(st.integers() | st.text()),
    max_leaves=20,
)


@given(VALUES)
def test_a_copy_has_the_same_fingerprint(value):
    import copy

    assert fingerprint(copy.deepcopy(value)) == fingerprint(value)


@given(st.lists(st.integers() | st.text() | st.booleans() | st.none() | st.floats(allow_nan=False)))
def test_the_hash_is_hmac_sha256_of_the_json(value):
    import json

    data = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
    expected = hmac.new(KEY, data, hashlib.sha256).hexdigest()[:16]
    assert fingerprint(value) == f"list {len(data)} {expected}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, None),
        ("1", 1),
        ("", None),
        ([], {}),
        ([1, [2]], [[1], 2]),
        ({1, 2}, [1, 2]),
        (b"a", "a"),
        (Point(1), Point(2)),
        (Model(a=1), Model(a=1, b=["x"])),
        (Colour.RED, "RED"),
    ],
)
def test_different_values_differ(one, other):
    assert fingerprint(one).split()[1:] != fingerprint(other).split()[1:]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "x", "y"}),
        ({3, "a", (1, 2)}, {(1, 2), "a", 3}),
        ([1, 2], (1, 2)),
        (Point(1, {2}), Point(1, {2})),
        (Model(a=1), Model(a=1)),
        (uuid.UUID(int=5), uuid.UUID(int=5)),
        (datetime.date(2026, 1, 1), datetime.date(2026, 1, 1)),
    ],
)
def test_order_and_identity_do_not_change_the_hash(one, other):
    assert fingerprint(one).split()[1:] == fingerprint(other).split()[1:]


def test_another_process_has_the_same_hash_under_the_same_key():
    value = {"set": {"b", "a", "c"}, "text": "é\ud800", "number": 2**70}
    program = (
        "from nodespan.spans.fingerprint import *; set_hash_key(b'k' * 32); "
        "print(fingerprint({'set': {'b', 'a', 'c'}, 'text': 'é\\ud800', 'number': 2**70}))"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONUTF8": "1"}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == fingerprint(value)


def test_the_hash_depends_on_the_key_and_requires_one():
    first = fingerprint(True)
    set_hash_key(b"another key of some length")
    assert fingerprint(True) != first
    set_hash_key(None)
    assert fingerprint(True) == "bool 4 -"


def test_large_values_have_only_a_type_and_are_not_hashed():
    holder: list = []
    holder.append(holder)
    large = [
        "x" * 10_000_000,
        {"k": "x" * 10_000_000},
        b"x" * 10_000_000,
        list(range(10**6)),
        dict.fromkeys(range(10**6)),
    ]
    started = time.process_time()
    found = [fingerprint(value) for value in [*large, holder]]
    assert time.process_time() - started < 0.02
    assert [one.split()[1:] for one in found] == [["large", "-"]] * 6


def test_the_bounds_are_64_kib_and_1000_elements():
    assert fingerprint("x" * 65_534).startswith("str 65536 ")
    assert fingerprint("x" * 65_535) == "str large -"
    assert fingerprint([0] * 1000).startswith("list 2001 ")
    assert fingerprint([0] * 1001) == "list large -"
    assert fingerprint([[0] * 600, [0] * 600]) == "list large -"
    assert fingerprint(Point(1, [0] * 1001)) == "Point large -"


def test_a_value_without_a_canonical_form_has_only_a_type():
    assert fingerprint(object()) == "object - -"
    assert fingerprint([object()]) == "list - -"
    assert fingerprint(lambda: 0) == "function - -"
    assert fingerprint({(1, 2): 3}) == "dict - -"
    assert fingerprint(Point(1, object())) == "Point - -"
    assert fingerprint(type("two words", (), {})()) == "two_words - -"
