"""Data of several packages: frozen, and rejected with the allowed values if invalid."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from nodespan import semconv
from nodespan.errors import ConfigurationError, NodespanError
from nodespan.types import (
    STATE_ONLY_KEYS,
    ChatMessage,
    GenerationRequest,
    ModelProfile,
    ModelProfileType,
    NodeMetadata,
    PipelinePriority,
    Sampling,
)

NODE: dict[str, Any] = {
    "node_name": "n",
    "node_id": "0123abcd",
    "node_type": "PipelineNode",
    "profile_type": 0,
    "priority": 10,
    "streaming": True,
    "execution_time": "2026-01-31T12:00:00.000000+00:00",
}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelProfile(n_ctx=0), r"n_ctx=0: .*greater than 0"),
        (lambda: ModelProfile(n_batch=-1), r"n_batch=-1: .*greater than 0"),
        (lambda: ModelProfile(n_threads=0), r"n_threads=0: .*greater than 0"),
        (lambda: ModelProfile(nctx=1), r"nctx: unknown field\. Allowed: .*n_ctx"),
        (lambda: Sampling(temperature=-1), r"temperature=-1: .*greater than or equal to 0"),
        (lambda: Sampling(max_tokens=0), r"max_tokens=0: .*greater than 0"),
        (lambda: Sampling(seed=2**32), r"seed=4294967296: .*less than"),
        (lambda: GenerationRequest(), r"messages|prompt"),
        (lambda: GenerationRequest(prompt="a", messages=(ChatMessage(role="user", content="b"),)), r"messages|prompt"),
    ],
)
def test_an_invalid_value_is_an_error_with_the_allowed_values(make, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        make()
    assert isinstance(caught.value, NodespanError)
    assert not isinstance(caught.value, ValueError)


def test_a_text_that_is_refused_is_not_shown():
    with pytest.raises(ConfigurationError) as caught:
        ChatMessage(role="user", content=["my secret"])
    assert "content (list)" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_values_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        ModelProfile(name="a").name = "b"


def test_numbers_of_enums_are_fixed():
    assert ModelProfileType.Primary == 0
    assert {priority.name: int(priority) for priority in PipelinePriority} == {
        "LOW": 1,
        "MEDIUM": 5,
        "NORMAL": 10,
        "HIGH": 11,
        "CRITICAL": 20,
    }


def test_the_name_of_a_model_is_its_name_else_its_file_else_its_provider():
    assert ModelProfile(name="mine", model_path="a/b.gguf").model_name == "mine"
    assert ModelProfile(model_path="a/b.Q4.gguf").model_name == "b.Q4"
    assert ModelProfile().model_name == "llama_cpp"


def test_an_entry_is_plain_json_without_keys_of_none():
    entry = NodeMetadata(**NODE, tokens_per_s=1.5).entry()
    assert entry == {**NODE, "tokens_per_s": 1.5}
    assert json.loads(json.dumps(entry)) == entry


def test_every_key_of_an_entry_is_an_attribute_in_the_table_or_the_span_itself():
    keys = set(NodeMetadata.model_fields)
    assert {*semconv.MIRROR_KEYS, *STATE_ONLY_KEYS} == keys
    assert all(semconv.MIRROR_KEYS[key] == f"nodespan.{key}" in semconv.NAMES for key in keys - STATE_ONLY_KEYS)


@pytest.mark.parametrize("node_id", ["", "0123ABCD", "0123abc", "0123abcde", "0123abcg"])
def test_a_node_id_is_8_hex_digits(node_id):
    with pytest.raises(ValidationError):
        NodeMetadata(**{**NODE, "node_id": node_id})


def test_a_request_sets_changes_and_removes_sampling_parameters():
    profile = Sampling(temperature=0.5, stop=("q",), seed=3, max_tokens=9)
    assert Sampling().over(profile) == {"temperature": 0.5, "stop": ("q",), "seed": 3, "max_tokens": 9}
    assert Sampling(stop=(), temperature=None, seed=0).over(profile) == {"seed": 0, "max_tokens": 9}
    assert Sampling(stop=("z",)).over(Sampling()) == {"stop": ("z",)}
