"""Prometheus scrapes the metrics of a real llama-server that docs/servers.md describes."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_local import LocalStack

from llama_server import LlamaServer
from stack_backends import Prometheus, eventually

PAGE = (Path(__file__).parents[2] / "docs" / "servers.md").read_text()
DOCUMENTED = sorted(set(re.findall(r"`(llamacpp:\w+)`", PAGE)))
TARGETS = re.search(r"```yaml\n(- targets: .*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(smollm2, tmp_path_factory.mktemp("llama-server")) as server:
        body = json.dumps({"prompt": "The sea is", "max_tokens": 4}).encode()
        request = urllib.request.Request(f"{server.url}/completions", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()
        yield server


def test_a_server_listed_in_the_documented_file_is_scraped(
    stack: LocalStack, prometheus: Prometheus, server: LlamaServer
) -> None:
    assert TARGETS is not None
    listed = TARGETS[1].replace("host.docker.internal:8080", f"127.0.0.1:{server.port}")
    (stack.folder / "prometheus" / "servers.yml").write_text(listed)
    found = eventually(
        lambda: prometheus.query('llamacpp:tokens_predicted_total{job="model-servers"}'),
        lambda found: found and found[0][1] == 4,
        "the tokens of the request in Prometheus",
    )
    assert found[0][0]["model"] == "qwen3-8b"
    assert len(DOCUMENTED) == 8
    for metric in DOCUMENTED:
        assert prometheus.series(metric), metric


def test_slots_have_the_documented_fields_and_no_text(server: LlamaServer) -> None:
    busy = [slot for slot in server.get("/slots") if "next_token" in slot]
    assert busy
    assert {slot["is_processing"] for slot in busy} <= {True, False}
    assert busy[0]["next_token"][0]["n_decoded"] >= 0
    assert "The sea is" not in json.dumps(busy)
