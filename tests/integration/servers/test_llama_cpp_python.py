"""OpenAICompatiblePipeline on the real server of llama-cpp-python: no usage in its streams, counted apart."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llama_server import PATIENCE_S, free_port
from nodespan.runner import PipelineFactory, Runner
from nodespan.testing import FakeServer
from nodespan.types import ModelProfile, ModelProfileType
from pipelines import chat, raw


@pytest.fixture(scope="module")
def url(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("llama-cpp-python") / "log"
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(smollm2), "--n_ctx", "1024"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--model_alias", "smol"],
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                pass
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def test_the_fake_server_has_its_title_and_its_count(url: str) -> None:
    with FakeServer("llama-cpp-python") as fake:
        reported = [httpx.get(f"{one[:-3]}/openapi.json", trust_env=False).json() for one in (url, fake.url)]
        assert reported[0]["info"]["title"] == reported[1]["info"]["title"]
        counts = [
            httpx.post(f"{one[:-3]}/extras/tokenize/count", json={"model": "smol", "input": "a b"}, trust_env=False)
            for one in (url, fake.url)
        ]
    assert [list(count.json()) for count in counts] == [["count"], ["count"]]


def test_its_streams_are_counted_by_the_server_s_tokenizer_and_marked(url: str) -> None:
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(base_url=url, name="smol")}) as factory:
        runner = Runner(factory)
        streams = [runner.stream_pipeline(raw("The sea", seed=1, max_tokens=8)) for _ in range(3)]
        texts = ["".join(chunk.content for chunk in stream) for stream in streams]
        assert texts[0] == texts[1] == texts[2] != ""
        metadata = streams[0].metadata
        assert metadata is not None
        assert metadata.model_provider == "LLAMA_CPP"
        assert metadata.tokens_estimated is True
        assert metadata.input_tokens in {2, 3}
        assert metadata.output_tokens in range(6, 10)
        assert (metadata.decode_s, metadata.prompt_eval_s, metadata.server_queue_s) == (None, None, None)
        assert "".join(chunk.content for chunk in runner.stream_pipeline(chat("What is the sea?", max_tokens=5)))
