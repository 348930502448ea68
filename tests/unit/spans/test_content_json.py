"""Content as JSON that fits: valid, within the limit, and with marks where it was cut."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from nodespan.spans.content_json import UserValue, encode_json, fit_json
from nodespan.spans.message_parts import message, text_part
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
def test_any_value_is_shortened_to_valid_json(value, max_bytes):
    made = encode_json(fit_json(UserValue(value), max_bytes))
    assert len(made) <= max_bytes
    json.loads(made, parse_constant=pytest.fail)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=3000), max_size=30), st.integers(512, 4096))
def test_any_conversation_is_shortened_and_keeps_its_form(texts, max_bytes):
    made = fit_json([message("user", [text_part(text)]) for text in texts], max_bytes)
    assert len(encode_json(made)) <= max_bytes
    for one in made:
        assert isinstance(one["role"], str)
        assert [set(part) for part in one["parts"]] == [{"type", "content"}]


def test_content_within_the_limit_is_not_changed():
    value = {"a": [1, 2.5, None, True], "b": "grün", "c": "\ud800"}
    assert fit_json(UserValue(value), 512) == {"a": [1, 2.5, None, True], "b": "grün", "c": "?"}


def test_a_long_text_is_cut_with_size_and_sha256_and_short_ones_are_kept():
    long = "x" * 100_000
    made = fit_json([message("user", [text_part("short")]), message("user", [text_part(long)])], 1024)
    short, cut = (one["parts"][0]["content"] for one in made)
    assert short == "short"
    assert MARK.search(cut).groups() == ("100000", hashlib.sha256(long.encode()).hexdigest())
    assert 900 < len(encode_json(made)) <= 1024


def test_of_too_many_messages_the_oldest_are_omitted_and_counted():
    made = fit_json([message("user", [text_part(f"message {n}")]) for n in range(1000)], 1024)
    assert len(encode_json(made)) <= 1024
    first, *others = made
    assert re.fullmatch(r"\[cut: \d+ messages\]", first["parts"][0]["content"])
    assert others[-1]["parts"][0]["content"] == "message 999"
    assert first["parts"][0]["content"] == f"[cut: {1000 - len(others)} messages]"
    assert len(others) >= 8  # each has about 80 bytes


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


def test_objects_are_written_as_readable_text():
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


def test_the_hook_receives_every_text_of_the_user_and_none_of_nodespan(redact):
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


def test_a_failing_hook_removes_the_text(redact, monkeypatch):
    redact(lambda text: text.no_such_thing)
    assert fit_json([message("user", [text_part("secret")])], 512) == [
        {"role": "user", "parts": [{"type": "text", "content": REMOVED}]}
    ]


def test_the_sha256_of_a_cut_text_is_that_of_the_redacted_one(redact):
    redact(lambda text: text.replace("secret", "***"))
    made = fit_json(UserValue("secret" + "x" * 2000), 512)
    assert MARK.search(made).group(2) == hashlib.sha256(b"***" + b"x" * 2000).hexdigest()


def test_numbers_that_a_log_record_cannot_hold_are_texts():
    made = fit_json(UserValue({"small": 2**63 - 1, "64 bits": 2**63, "400 digits": 10**400, "huge": 10**5000}), 8192)
    assert made["small"] == 2**63 - 1
    assert made["64 bits"] == str(2**63)
    assert made["400 digits"] == str(10**400)
    assert made["huge"] == hex(10**5000)


class Hostile:
    def __str__(self):
        raise RuntimeError("detached")

    __repr__ = __str__


class HostileModel(Hostile):
    def model_dump(self):
        raise RuntimeError("detached")


@pytest.mark.parametrize("hostile", [Hostile(), HostileModel()])
def test_only_the_unreadable_object_is_missing(hostile):
    made = fit_json(UserValue({"good": "day", "bad": hostile}), 512)
    assert made == {"good": "day", "bad": f"[{type(hostile).__name__} raised RuntimeError]"}


def _took_s(make, structure):
    times = []
    for _ in range(3):
        started = time.thread_time()
        encode_json(make(structure))
        times.append(time.thread_time() - started)
    return min(times)


LONG = "long text " * 1_000_000
STRUCTURES = {
    "a prompt of 10 MB": lambda: [message("user", [text_part(LONG)])],
    "20 prompts of 10 MB": lambda: [message("user", [text_part(LONG)])] * 20,
    "20,000 messages": lambda: [message("user", [text_part(f"message {n}")]) for n in range(20_000)],
    "a value of 1,000,000 items": lambda: UserValue(list(range(1_000_000))),
    "a value of 10,000 texts": lambda: UserValue({str(n): "text " * 100 for n in range(10_000)}),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_time_is_bounded_for_any_size(name):
    """Content is captured on the caller's thread, often an event loop."""
    took_s = _took_s(lambda structure: fit_json(structure, 32 * 1024), STRUCTURES[name]())
    assert took_s < 0.1  # 0.004 to 0.015; without a bound 0.06 to 2.3


def test_a_secret_at_the_end_of_the_read_text_is_not_partly_shown(redact):
    secret = "secret-" + "s" * 2000
    redact(lambda text: text.replace("x", "").replace(secret, "***"))
    for before in range(515_000, 530_000, 500):
        made = fit_json(UserValue("x" * before + secret + "y" * 100_000), 8192)
        assert "secret" not in made
