"""Content as JSON that fits: whatever it is, it can be parsed, is no longer than allowed, and says what was cut."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from nodespan.spans.content import message, text_part
from nodespan.spans.content_json import UserValue, encode_json, fit_json
from nodespan.spans.redaction import REMOVED, set_redaction

MARK = re.compile(r"\[cut: (\d+) bytes in all, sha256 ([0-9a-f]{64})\]")


@pytest.fixture
def redact(monkeypatch):
    yield set_redaction
    set_redaction(None)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=8),
    max_leaves=40,
)


@settings(max_examples=60, deadline=None)
@given(values, st.integers(512, 4096))
def test_any_value_is_made_to_fit_and_to_be_parsed(value, max_bytes):
    made = encode_json(fit_json(UserValue(value), max_bytes))
    assert len(made) <= max_bytes
    json.loads(made, parse_constant=pytest.fail)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=3000), max_size=30), st.integers(512, 4096))
def test_any_conversation_is_made_to_fit_and_keeps_its_form(texts, max_bytes):
    made = fit_json([message("user", [text_part(text)]) for text in texts], max_bytes)
    assert len(encode_json(made)) <= max_bytes
    for one in made:
        assert isinstance(one["role"], str)
        assert [set(part) for part in one["parts"]] == [{"type", "content"}]


def test_what_fits_stays_as_it_is():
    value = {"a": [1, 2.5, None, True], "b": "grün", "c": "\ud800"}
    assert fit_json(UserValue(value), 512) == {"a": [1, 2.5, None, True], "b": "grün", "c": "?"}


def test_a_long_text_is_cut_and_leaves_size_and_sha256_while_short_ones_stay():
    long = "x" * 100_000
    made = fit_json([message("user", [text_part("short")]), message("user", [text_part(long)])], 1024)
    short, cut = (one["parts"][0]["content"] for one in made)
    assert short == "short"
    assert MARK.search(cut).groups() == ("100000", hashlib.sha256(long.encode()).hexdigest())
    assert 900 < len(encode_json(made)) <= 1024


def test_of_too_many_messages_the_oldest_go_and_one_says_what_is_missing():
    made = fit_json([message("user", [text_part(f"message {n}")]) for n in range(1000)], 1024)
    assert len(encode_json(made)) <= 1024
    first, *others = made
    assert re.fullmatch(r"\[cut: \d+ messages, \d+ bytes in all, sha256 [0-9a-f]{64}\]", first["parts"][0]["content"])
    assert others[-1]["parts"][0]["content"] == "message 999"


def test_a_value_that_cannot_be_shortened_becomes_one_text():
    made = fit_json(UserValue(list(range(10_000))), 1024)
    assert MARK.search(made)
    assert len(encode_json(made)) <= 1024


@dataclass
class Point:
    x: int


class Place(BaseModel):
    name: str
    inner: list[float] = []


def test_objects_are_written_as_people_read_them():
    loop: list[object] = []
    loop.append(loop)
    made = fit_json(
        UserValue({"model": Place(name="Graz"), "object": Point(1), "bytes": b"123", "nan": float("nan")}), 512
    )
    assert made == {
        "model": {"name": "Graz", "inner": []},
        "object": "Point(x=1)",
        "bytes": "[3 bytes]",
        "nan": "nan",
    }
    assert len(encode_json(fit_json(UserValue(loop), 512))) <= 512


def test_the_hook_sees_every_text_of_the_user_s_and_nothing_of_ours(redact):
    seen = []
    redact(lambda text: seen.append(text) or text.replace("secret", "***"))
    part = {
        "type": "tool_call",
        "id": "call_1",
        "name": "look_up",
        "arguments": UserValue({"secret key": ["a secret"]}),
    }
    made = fit_json([message("assistant", [part])], 512)
    assert made[0]["parts"][0] == {**part, "arguments": {"*** key": ["a ***"]}}
    assert seen == ["secret key", "a secret"]


def test_a_hook_that_fails_takes_the_text_away(redact, monkeypatch):
    redact(lambda text: text.no_such_thing)
    assert fit_json([message("user", [text_part("secret")])], 512) == [
        {"role": "user", "parts": [{"type": "text", "content": REMOVED}]}
    ]


def test_the_sha256_of_a_cut_text_is_that_of_the_redacted_one(redact):
    redact(lambda text: text.replace("secret", "***"))
    made = fit_json(UserValue("secret" + "x" * 2000), 512)
    assert MARK.search(made).group(2) == hashlib.sha256(b"***" + b"x" * 2000).hexdigest()
