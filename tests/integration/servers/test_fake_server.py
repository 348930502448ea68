"""``FakeServer`` has the paths and fields of the real servers of its kind, as far as these run here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llama_server import LlamaServer
from nodespan.engine.openai_compatible.bodies import body_of
from nodespan.engine.openai_compatible.dialects import LLAMA_SERVER
from nodespan.testing import FakeServer
from nodespan.types import ModelProfile
from pipelines import chat, raw

PROFILE = ModelProfile(base_url="http://127.0.0.1:1/v1", name="smol")


def fields(value: Any, path: str = "") -> Iterator[str]:
    """Paths of the fields of a JSON value, with the type of each text and number."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from fields(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from fields(item, f"{path}[]")
    elif value is not None:
        yield f"{path}: {'number' if isinstance(value, (int, float)) else type(value).__name__}"


def streamed(url: str, path: str, body: dict[str, Any]) -> list[Any]:
    answer = httpx.post(f"{url}/{path}", json=body, timeout=60, trust_env=False).raise_for_status()
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


WAYS = pytest.mark.parametrize(("ask", "path"), [(chat, "chat/completions"), (raw, "completions")])


@WAYS
def test_each_field_of_its_stream_is_in_that_of_a_real_llama_server(
    llama_server: LlamaServer, ask: Any, path: str
) -> None:
    llama_server.erase()
    body = body_of(PROFILE, ask("The sea is wide and", max_tokens=4, seed=1), LLAMA_SERVER)
    real = set(fields(streamed(llama_server.url, path, body)))
    with FakeServer("llama-server") as fake:
        assert set(fields(streamed(fake.url, path, body))) - real == set()


def test_each_field_of_its_properties_is_in_those_of_a_real_llama_server(llama_server: LlamaServer) -> None:
    real = set(fields(llama_server.get("/props")))
    with FakeServer("llama-server") as fake:
        props = httpx.get(f"{fake.url[:-3]}/props", trust_env=False).json()
    assert set(fields(props)) - real == set()


@WAYS
def test_each_field_of_its_whole_answer_is_in_that_of_a_real_llama_server(
    llama_server: LlamaServer, ask: Any, path: str
) -> None:
    llama_server.erase()
    body = {**body_of(PROFILE, ask("The sea is wide and", max_tokens=4, seed=1), LLAMA_SERVER), "stream": False}
    with FakeServer("llama-server") as fake:
        real, ours = (
            httpx.post(f"{url}/{path}", json=body, timeout=60, trust_env=False).raise_for_status().json()
            for url in (llama_server.url, fake.url)
        )
    assert set(fields(ours)) - set(fields(real)) == set()
    assert "timings" in ours
    assert ours["usage"]["completion_tokens"] == len(fake.words)
